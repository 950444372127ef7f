"""Inference engines: what runs a model."""
