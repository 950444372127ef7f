"""Many models behind one deployment: each replica keeps the two used last, and requests go where their model is.

The models are tokenizers of different vocabulary sizes, trained when they are first asked for.

headrace run examples.multiplexing:app
curl http://127.0.0.1:8000/ -H 'serve_multiplexed_model_id: bpe-300' --json '"the rumble of the carriage"'
curl http://127.0.0.1:8000/ -H 'serve_multiplexed_model_id: bpe-2000' --json '"the rumble of the carriage"'
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

import headrace as serve

DOCUMENTS = sorted(Path(__file__).parent.glob("pipeline/documents/*.txt"))


class Tokens(BaseModel):
    model: str
    tokens: list[str]


@serve.deployment(num_replicas=2)
class Tokenizers:
    @serve.multiplexed(max_num_models_per_replica=2)
    async def get_model(self, model_id: str) -> Tokenizer:
        vocabulary_size = int(model_id.removeprefix("bpe-"))
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.BpeTrainer(vocab_size=vocabulary_size, show_progress=False)
        tokenizer.train([str(path) for path in DOCUMENTS], trainer)
        return tokenizer

    async def __call__(self, text: str) -> Tokens:
        model_id = serve.get_multiplexed_model_id()
        model = await self.get_model(model_id)
        return Tokens(model=model_id, tokens=model.encode(text).tokens)


app = Tokenizers.bind()
