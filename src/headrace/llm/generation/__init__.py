"""The OpenAI layer for engines that only turn tokens into tokens."""
