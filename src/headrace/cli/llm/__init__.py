"""`headrace llm …`: serve a model, talk to it, work a batch off."""
