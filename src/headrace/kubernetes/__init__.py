"""Manifests for Kubernetes: what to apply so that a config is served there. Nothing here talks to a cluster."""
