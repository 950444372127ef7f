"""Continuous batching for engines that compute logits: requests join and leave a running batch between two steps."""
