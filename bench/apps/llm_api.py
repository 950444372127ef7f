"""What `bench.llm_layer` and `bench.llm_prefix` measure.

python llm_api.py uvicorn PORT SETTINGS          the floor: Starlette on uvicorn, one event per token
python llm_api.py direct|ingress PORT SETTINGS   Headrace with the simulated engine; SETTINGS is JSON
python llm_api.py vllm PORT SETTINGS             Headrace with vLLM; SETTINGS has `model` and `router` too
"""

# mypy: ignore-errors
from __future__ import annotations

import json
import sys

# One event as the simulated engine writes it, so that the same number of bytes goes over the wire.
EVENT = (
    b'data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,'
    b'"model":"m","choices":[{"index":0,"delta":{"content":"abc "},"logprobs":null,"finish_reason":null}]}\n\n'
)


def serve_uvicorn(port: int, settings: dict) -> None:
    import asyncio

    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    delay_s = settings.get("time_per_output_token_s", 0.0)

    async def events(tokens):
        for _ in range(tokens):
            if delay_s:
                await asyncio.sleep(delay_s)
            yield EVENT
        yield b"data: [DONE]\n\n"

    async def chat(request):
        asked = await request.json()
        return StreamingResponse(events(asked["max_tokens"]), media_type="text/event-stream")

    app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="warning")


def serve_headrace(how: str, port: int, settings: dict) -> None:
    import headrace as serve
    from headrace.llm import LLMConfig, LLMServer, build_openai_app

    deployment = {"num_replicas": settings.pop("replicas", 1)}
    loading = {"model_id": "m", "model_source": settings.pop("model", "m")}
    if router := settings.pop("router", None):
        deployment["request_router_config"] = {"request_router_class": router}
    config = LLMConfig(
        model_loading_config=loading,
        llm_engine="vllm" if how == "vllm" else "simulated",
        engine_kwargs=settings,
        deployment_config=deployment,
    )
    serve.start(http_options={"port": port}, rest_options={"port": 0})
    if how == "direct":
        app = LLMServer.bind(config)
    else:
        app = build_openai_app({"llm_configs": [config], "batch_config": None})
    serve.run(app, blocking=True)


if __name__ == "__main__":
    kind, port = sys.argv[1], int(sys.argv[2])
    if kind == "uvicorn":
        serve_uvicorn(port, json.loads(sys.argv[3]))
    else:
        serve_headrace(kind, port, json.loads(sys.argv[3]))
