"""Handlers with typed parameters: the JSON body is validated into them, and /docs describes them.

headrace run examples.typed_handler:app
curl http://127.0.0.1:8000/ --json '{"principal": 1000, "rate_percent": 3.5, "years": 10}'
curl http://127.0.0.1:8000/ --json '{"principal": "much"}'        # 422, and the answer says why
open http://127.0.0.1:8000/docs
"""

from __future__ import annotations

from pydantic import BaseModel

import headrace as serve


class Balance(BaseModel):
    year: int
    amount: float


@serve.deployment
class CompoundInterest:
    def __call__(self, principal: float, rate_percent: float, years: int = 1) -> list[Balance]:
        factor = 1 + rate_percent / 100
        return [Balance(year=year, amount=round(principal * factor**year, 2)) for year in range(1, years + 1)]


app = CompoundInterest.bind()
