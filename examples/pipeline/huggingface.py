"""The same three deployments as builtin.py, with models of the Hugging Face hub (extra `transformers`).

The libraries are imported where they are needed, in the replicas: the process that builds the application does not
have to load PyTorch.
"""

from __future__ import annotations

from typing import Any

import headrace as serve

from .schema import Processed, Sentiment


def best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@serve.deployment(num_replicas=2)
class Preprocessor:
    """Normalises and tokenises text. `model`: name on the hub, or a folder."""

    def __init__(self, model: str, max_tokens: int = 512) -> None:
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(model)
        self.max_tokens = max_tokens

    def preprocess(self, text: str) -> Processed:
        cleaned = " ".join(text.split())
        tokens = self.tokenizer.encode(cleaned, max_length=self.max_tokens, truncation=True)
        return Processed(text=cleaned, tokens=tokens, length=len(tokens))


@serve.deployment
class SentimentModel:
    """A text classifier. `model`: name on the hub, or a folder."""

    def __init__(self, model: str) -> None:
        from transformers import pipeline

        self.classify: Any = pipeline("text-classification", model=model, device=best_device())

    def predict(self, text: str) -> Sentiment:
        best = self.classify(text, truncation=True)[0]
        return Sentiment(label=best["label"], score=round(best["score"], 3))


@serve.deployment
class SummaryModel:
    """A sequence-to-sequence summariser. `model`: name on the hub, or a folder."""

    def __init__(self, model: str, min_words: int = 30, max_new_tokens: int = 100) -> None:
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        self.device = best_device()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(model)
        self.model: Any = AutoModelForSeq2SeqLM.from_pretrained(model).to(self.device)
        self.min_words = min_words
        self.max_new_tokens = max_new_tokens

    def summarize(self, text: str) -> str:
        if len(text.split()) < self.min_words:
            return text
        inputs = self.tokenizer(text, return_tensors="pt", truncation=True).to(self.device)
        output = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens)
        return str(self.tokenizer.decode(output[0], skip_special_tokens=True)).strip()
