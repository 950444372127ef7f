"""Headrace: model serving with Ray Serve's programming model. See `docs/`."""
