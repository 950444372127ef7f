"""Models that need no download: a byte-pair tokenizer, the VADER sentiment lexicon, an extractive summariser.

Libraries are imported in the constructors, so that each replica loads only what its own model needs.
"""

from __future__ import annotations

import re
from pathlib import Path

import headrace as serve

from .schema import Processed, Sentiment

DOCUMENTS = Path(__file__).with_name("documents")


def split_sentences(text: str) -> list[str]:
    """The sentences of `text`, in order, without the white space around them."""
    return [sentence for sentence in re.split(r"(?<=[.!?])\s+", text.strip()) if sentence]


@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.25})
class Preprocessor:
    """Normalises and tokenises text.

    The tokenizer is a byte-level BPE, trained when the replica starts (some milliseconds) on the documents that lie
    beside this file. Bytes as its alphabet mean that it can split any text in any language.
    """

    def __init__(self, max_tokens: int = 512) -> None:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

        self.tokenizer = Tokenizer(models.BPE())
        self.tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        self.tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, show_progress=False)
        self.tokenizer.train_from_iterator((path.read_text() for path in sorted(DOCUMENTS.glob("*.txt"))), trainer)
        self.tokenizer.enable_truncation(max_tokens)

    def preprocess(self, text: str) -> Processed:
        cleaned = " ".join(text.split())
        tokens = self.tokenizer.encode(cleaned).ids
        return Processed(text=cleaned, tokens=tokens, length=len(tokens))


@serve.deployment(ray_actor_options={"num_cpus": 0.25})
class SentimentModel:
    """Rates how positive a text sounds, with VADER (Hutto & Gilbert, 2014)."""

    def __init__(self) -> None:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        self.analyzer = SentimentIntensityAnalyzer()

    def predict(self, text: str) -> Sentiment:
        """VADER's rules are made for single sentences, so a document's score is the mean over its sentences."""
        scores = [self.analyzer.polarity_scores(sentence)["compound"] for sentence in split_sentences(text)]
        score = sum(scores) / max(len(scores), 1)
        label = "positive" if score >= 0.05 else "negative" if score <= -0.05 else "neutral"
        return Sentiment(label=label, score=round(score, 3))


@serve.deployment
class SummaryModel:
    """Picks the sentences that say most of what the others say: LexRank (Erkan & Radev, 2004).

    Sentences are the nodes of a graph, the cosine similarity of their TF-IDF vectors weighs the edges, and PageRank
    finds the central ones.
    """

    def __init__(self, max_sentences: int = 2, min_words: int = 30) -> None:
        from networkx import from_numpy_array, pagerank
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.vectorizer = TfidfVectorizer(stop_words="english")
        self.to_graph = from_numpy_array
        self.rank = pagerank
        self.max_sentences = max_sentences
        self.min_words = min_words
        # These libraries load a good part of themselves at their first use: better now than under the first request.
        self.summarize("The wheel turns. The water runs fast. The mill is old. " * min_words)

    def summarize(self, text: str) -> str:
        sentences = split_sentences(text)
        if len(text.split()) < self.min_words or len(sentences) <= self.max_sentences:
            return text
        try:
            vectors = self.vectorizer.fit_transform(sentences)
        except ValueError:  # there is not one word that says anything, so no sentence says more than another
            return text
        rank = self.rank(self.to_graph((vectors @ vectors.T).toarray()))
        best = sorted(rank, key=lambda index: rank[index], reverse=True)[: self.max_sentences]
        return " ".join(sentences[index] for index in sorted(best))
