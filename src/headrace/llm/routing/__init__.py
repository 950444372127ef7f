"""Which replica of a model gets a request: by prefix of the prompt, by session, by adapter."""
