"""Language models: what readers of an answer notice, what the engine is busy with, and what vLLM says of itself."""

from __future__ import annotations

from headrace.observe.monitoring.deployment_dashboard import VARIABLES
from headrace.observe.monitoring.description import Dashboard, Objectives, Panel, Query, Row, Threshold, Variable
from headrace.observe.monitoring.overview_dashboard import error_thresholds, marks
from headrace.observe.monitoring.queries import DEPLOYMENT, MODEL, VLLM, mean, quantile, rate, share, total

NO_LLM = "no language model is served"
NO_VLLM = "no engine is vLLM's"

_FULL = (Threshold(0.8, "yellow"), Threshold(0.95, "red"))
_PERCENTILES = (0.5, 0.95, 0.99)


def llm(objectives: Objectives) -> Dashboard:
    return Dashboard(
        uid="headrace-llm",
        title="Headrace / LLM",
        description="Language models: tokens, time to first token, caches, and vLLM's own metrics.",
        variables=(*VARIABLES, Variable("model", "Model", "serve_llm_requests_running", "model", DEPLOYMENT)),
        rows=(
            Row("What readers notice", _noticed()),
            Row("Work", _work(objectives)),
            Row("Engines", _engines()),
            Row("vLLM", _vllm(), collapsed=True),
        ),
        annotations=marks(DEPLOYMENT),
    )


def _percentiles(histogram: str, where: str, quiet: str) -> tuple[Query, ...]:
    return tuple(Query(quantile(part, histogram, where), f"p{part * 100:g}", quiet) for part in _PERCENTILES)


def _noticed() -> tuple[Panel, ...]:
    return (
        Panel(
            title="Time to first token",
            description="From reading a request to the engine's first token; streamed answers.",
            queries=_percentiles("serve_llm_time_to_first_token_seconds", MODEL, NO_LLM),
            unit="s",
        ),
        Panel(
            title="Time per output token",
            description="Between two tokens, on average over an answer; streamed answers. People read at about 0.2 s.",
            queries=_percentiles("serve_llm_time_per_output_token_seconds", MODEL, NO_LLM),
            unit="s",
        ),
        Panel(
            title="Time per answer",
            description="From reading a request to the end of the engine's answer.",
            queries=_percentiles("serve_llm_request_latency_seconds", MODEL, NO_LLM),
            unit="s",
        ),
    )


def _work(objectives: Objectives) -> tuple[Panel, ...]:
    requests = "serve_llm_requests_total"
    failed = f'{MODEL}, outcome=~"error|overloaded"'
    prompts = total("model", rate("serve_llm_prompt_tokens_total", MODEL))
    return (
        Panel(
            title="Tokens",
            description="Tokens per second: generated, and read in prompts.",
            queries=(
                Query(total("model", rate("serve_llm_generated_tokens_total", MODEL)), "{{model}}: generated", NO_LLM),
                Query(prompts, "{{model}}: prompts", NO_LLM),
            ),
            unit="suffix: tok/s",
        ),
        Panel(
            title="Requests by outcome",
            description="finished; invalid (the request is wrong); overloaded (refused: too many wait); asleep; "
            "cancelled (the client left); error.",
            queries=(Query(total("outcome", rate(requests, MODEL)), "{{outcome}}", NO_LLM),),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            title="Failing",
            description="Share of requests that fail or are refused.",
            queries=(
                Query(
                    share(total("model", rate(requests, failed)), total("model", rate(requests, MODEL))),
                    "{{model}}",
                    NO_LLM,
                ),
            ),
            unit="percentunit",
            thresholds=error_thresholds(objectives),
        ),
        Panel(
            title="Prompt tokens from the cache",
            description="Share of prompts' tokens that the KV cache had already: their beginnings were the same.",
            queries=(
                Query(
                    share(total("model", rate("serve_llm_cached_prompt_tokens_total", MODEL)), prompts),
                    "{{model}}",
                    NO_LLM,
                ),
            ),
            unit="percentunit",
            maximum=1,
        ),
        Panel(
            title="By adapter",
            description="Requests per second; without a name: the base model.",
            queries=(Query(total("model, adapter", rate(requests, MODEL)), "{{model}} {{adapter}}", NO_LLM),),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            title="Serving's share of the time to first token",
            description="What is not the engine's: until it is asked, and from its first token until that is sent.",
            queries=tuple(
                Query(
                    quantile(part, "serve_llm_serving_overhead_first_token_seconds", 'model=~"$model"'),
                    f"p{part * 100:g}",
                    NO_LLM,
                )
                for part in _PERCENTILES
            ),
            unit="s",
        ),
    )


def _engines() -> tuple[Panel, ...]:
    return (
        Panel(
            title="Running in engines",
            description="Requests that engines generate answers for.",
            queries=(Query(total("replica, model", f"serve_llm_requests_running{{{MODEL}}}"), "{{replica}}", NO_LLM),),
            stacked=True,
        ),
        Panel(
            title="Waiting in engines",
            description="Requests that wait for room in a batch. Long queues cost time to first token: add replicas.",
            queries=(Query(total("replica, model", f"serve_llm_requests_waiting{{{MODEL}}}"), "{{replica}}", NO_LLM),),
            stacked=True,
        ),
        Panel(
            title="KV cache in use",
            description="Of each replica. Full: requests wait, or are interrupted and begun again.",
            queries=(Query(f"max by (replica, model) (serve_llm_kv_cache_use{{{MODEL}}})", "{{replica}}", NO_LLM),),
            unit="percentunit",
            maximum=1,
            thresholds=_FULL,
        ),
    )


def _vllm() -> tuple[Panel, ...]:
    hits, asked = (total("model_name", rate(f"vllm:prefix_cache_{name}_total", VLLM)) for name in ("hits", "queries"))
    return (
        Panel(
            title="Time to first token",
            description="As vLLM measures it.",
            queries=_percentiles("vllm:time_to_first_token_seconds", VLLM, NO_VLLM),
            unit="s",
        ),
        Panel(
            title="Between tokens",
            description="Inter-token latency.",
            queries=_percentiles("vllm:inter_token_latency_seconds", VLLM, NO_VLLM),
            unit="s",
        ),
        Panel(
            title="Time per answer",
            description="End to end in vLLM.",
            queries=_percentiles("vllm:e2e_request_latency_seconds", VLLM, NO_VLLM),
            unit="s",
        ),
        Panel(
            title="Where the time goes",
            description="Average per request: waiting, reading the prompt, generating.",
            queries=tuple(
                Query(
                    mean(f"vllm:request_{part}_time_seconds", VLLM, "model_name"),
                    f"{{{{model_name}}}}: {part}",
                    NO_VLLM,
                )
                for part in ("queue", "prefill", "decode")
            ),
            unit="s",
            stacked=True,
        ),
        Panel(
            title="Running and waiting",
            description="In vLLM's scheduler.",
            queries=tuple(
                Query(
                    total("model_name", f"vllm:num_requests_{part}{{{VLLM}}}"), f"{{{{model_name}}}}: {part}", NO_VLLM
                )
                for part in ("running", "waiting")
            ),
        ),
        Panel(
            title="KV cache in use",
            description="Of each engine core.",
            queries=(
                Query(
                    f"max by (replica, engine) (vllm:kv_cache_usage_perc{{{VLLM}}})",
                    "{{replica}} {{engine}}",
                    NO_VLLM,
                ),
            ),
            unit="percentunit",
            maximum=1,
            thresholds=_FULL,
        ),
        Panel(
            title="Prefix cache hits",
            description="Share of the tokens looked up in the prefix cache that were there.",
            queries=(Query(f"{hits} / {asked}", "{{model_name}}", NO_VLLM),),
            unit="percentunit",
            maximum=1,
        ),
        Panel(
            title="Preemptions",
            description="Requests per second that were interrupted for want of KV cache, and begun again.",
            queries=(Query(total("model_name", rate("vllm:num_preemptions_total", VLLM)), "{{model_name}}", NO_VLLM),),
            unit="reqps",
            thresholds=(Threshold(0.1, "yellow"), Threshold(1, "red")),
        ),
        Panel(
            title="Tokens",
            description="Tokens per second.",
            queries=(
                Query(
                    total("model_name", rate("vllm:generation_tokens_total", VLLM)),
                    "{{model_name}}: generated",
                    NO_VLLM,
                ),
                Query(total("model_name", rate("vllm:prompt_tokens_total", VLLM)), "{{model_name}}: prompts", NO_VLLM),
            ),
            unit="suffix: tok/s",
        ),
        Panel(
            title="Why answers ended",
            description="stop, length, abort (the client left).",
            queries=(
                Query(
                    total("finished_reason", rate("vllm:request_success_total", VLLM)), "{{finished_reason}}", NO_VLLM
                ),
            ),
            unit="reqps",
            stacked=True,
        ),
    )
