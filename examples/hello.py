"""The smallest deployment.

headrace run examples.hello:app
curl http://127.0.0.1:8000/
"""

from __future__ import annotations

from starlette.requests import Request

import headrace as serve


@serve.deployment
class HelloModel:
    def __call__(self, request: Request) -> dict[str, str]:
        return {"message": f"Hello from Headrace, {request.query_params.get('name', 'stranger')}!"}


app = HelloModel.bind()
