"""Applications around language models."""
