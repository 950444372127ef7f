"""LLM serving on the public API: OpenAI-compatible endpoints over vLLM and other inference engines."""
