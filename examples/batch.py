"""Dynamic batching: each request carries one text, the model sees lists of them.

headrace run examples.batch:app
curl http://127.0.0.1:8000/ --json '"Où est la gare, s'\''il vous plaît ?"'
"""

from __future__ import annotations

from pydantic import BaseModel
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import headrace as serve

SENTENCES = {
    "English": ["the weather is nice today", "where is the station please", "I would like a cup of tea with milk"],
    "French": ["il fait beau aujourd'hui", "où est la gare s'il vous plaît", "je voudrais une tasse de thé au lait"],
    "German": ["das Wetter ist heute schön", "wo ist bitte der Bahnhof", "ich hätte gern eine Tasse Tee mit Milch"],
    "Spanish": ["hoy hace buen tiempo", "dónde está la estación por favor", "quisiera una taza de té con leche"],
}


class Guess(BaseModel):
    language: str
    probability: float
    batch_size: int


@serve.deployment
class LanguageModel:
    def __init__(self) -> None:
        texts = [text for examples in SENTENCES.values() for text in examples]
        languages = [language for language, examples in SENTENCES.items() for _ in examples]
        vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 3))
        self.model = make_pipeline(vectorizer, LogisticRegression(C=100)).fit(texts, languages)

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.01)
    async def __call__(self, texts: list[str]) -> list[Guess]:
        probabilities = self.model.predict_proba(texts)
        return [
            Guess(language=self.model.classes_[row.argmax()], probability=row.max().round(3), batch_size=len(texts))
            for row in probabilities
        ]


app = LanguageModel.bind()
