"""A FastAPI application as ingress: routes, dependencies, WebSockets, its own /docs.

headrace run examples.fastapi_ingress:app
curl http://127.0.0.1:8000/sentiment --json '{"text": "I like it"}'
curl 'http://127.0.0.1:8000/words/splendid'
"""

from __future__ import annotations

from fastapi import FastAPI, HTTPException, WebSocket, WebSocketDisconnect
from pydantic import BaseModel
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

import headrace as serve
from headrace.handle import DeploymentHandle

api = FastAPI(title="Sentiment")


class Text(BaseModel):
    text: str


class Score(BaseModel):
    score: float


@serve.deployment
class Lexicon:
    def __init__(self) -> None:
        self.analyzer = SentimentIntensityAnalyzer()

    def score(self, text: str) -> float:
        return float(self.analyzer.polarity_scores(text)["compound"])

    def look_up(self, word: str) -> float | None:
        valence: float | None = self.analyzer.lexicon.get(word)
        return valence


@serve.deployment
@serve.ingress(api)
class Ingress:
    def __init__(self, lexicon: DeploymentHandle[Lexicon]) -> None:
        self.lexicon = lexicon

    @api.post("/sentiment")
    async def sentiment(self, body: Text) -> Score:
        return Score(score=await self.lexicon.score.remote(body.text))

    @api.get("/words/{word}")
    async def word(self, word: str) -> Score:
        valence = await self.lexicon.look_up.remote(word)
        if valence is None:
            raise HTTPException(404, f"{word!r} is not in the lexicon")
        return Score(score=valence)

    @api.websocket("/live")
    async def live(self, socket: WebSocket) -> None:
        """Answers every text message with its score."""
        await socket.accept()
        try:
            while True:
                await socket.send_json({"score": await self.lexicon.score.remote(await socket.receive_text())})
        except WebSocketDisconnect:
            pass


app = Ingress.bind(Lexicon.bind())
