"""Metrics of LLM serving: of answers, and of what the serving layer itself takes of them."""
