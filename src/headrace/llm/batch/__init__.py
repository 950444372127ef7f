"""Offline batches in OpenAI's format: from a file on the command line, and through `/v1/files` and `/v1/batches`."""
