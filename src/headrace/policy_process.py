"""The process of one autoscaling policy: the controller, which never runs user code itself, asks it over the wire."""

from __future__ import annotations

import asyncio
import inspect
import math
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import cloudpickle
import uvloop

from headrace.config.autoscaling import AutoscalingConfig
from headrace.config.autoscaling_context import AutoscalingContext, TimeStampedValue
from headrace.config.ids import DeploymentID, ReplicaID
from headrace.config.policy_call import DeploymentFacts, PolicyAnswer, PolicyLoad, PolicyQuestion
from headrace.exceptions import HeadraceError
from headrace.observe.log_files import LoggedProcess
from headrace.observe.logs import configure_logging, end_logging
from headrace.replica.deployed_sources import import_as_deployed
from headrace.replica.user_traceback import user_traceback
from headrace.wire.rpc import RpcServer

MAX_STATE_BYTES = 1 << 20
"""A larger state stays in this process alone, and is lost with it."""


class PolicyError(HeadraceError):
    """The policy raised, or returned something else than it should; the message is for people."""


class PolicyProcess(Protocol):
    """What is used of the engine's `ProcessContext`."""

    @property
    def args(self) -> Mapping[str, Any]: ...
    @property
    def session_dir(self) -> Path: ...
    @property
    def secret(self) -> bytes: ...
    @property
    def listeners(self) -> Mapping[str, socket.socket]: ...
    @property
    def leave(self) -> Callable[[int], object]: ...


def main(process: PolicyProcess) -> None:
    """Answer until told to end. `args`: `owner`, whose name log lines carry, and `logging`."""
    whose = LoggedProcess("policy", f"policy/{process.args['owner']}")
    configure_logging(whose, process.args.get("logging"), process.session_dir / "logs", capture=True)
    uvloop.run(_serve(process))
    end_logging()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that the policy has started, or that it blocks, must not keep the process.
    process.leave(0)


async def _serve(process: PolicyProcess) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    asked = PolicyCalls()
    server = RpcServer({"load": asked.load, "decide": asked.decide})
    listener = await server.start(process.listeners["wire"], process.secret)
    await stop.wait()
    listener.close()


class PolicyCalls:
    """The calls that the controller makes. User code runs on one thread, so that it never blocks the loop."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "policy")
        self._load: PolicyLoad
        self._policy: Callable[[Any], Any] | None = None
        self._states: dict[str, dict[str, Any]] = {}
        self._told_states: bytes | None = None
        self._configs: dict[str, tuple[dict[str, Any], AutoscalingConfig]] = {}

    async def load(self, body: PolicyLoad) -> None:
        """Unpickle the policy, and make an instance of it if it is a class. Asked again, by a controller that has
        started anew, what is there stays."""
        await self._run(self._load_once, body)

    async def decide(self, body: PolicyQuestion) -> PolicyAnswer:
        """Ask the policy."""
        answer: PolicyAnswer = await self._run(self._decide, body)
        return answer

    async def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)
        except (PolicyError, asyncio.CancelledError):
            raise
        except BaseException as error:  # `sys.exit` in a policy is one more way to fail
            raise PolicyError(f"raised {type(error).__name__}: {error}\n{user_traceback(error)}") from None

    def _load_once(self, body: PolicyLoad) -> None:
        if self._policy is not None:
            return
        for path in body.sys_path:
            if path not in sys.path:
                sys.path.append(path)
        if "" not in sys.path:
            sys.path.insert(0, "")
        import_as_deployed(body.policy.sources)
        function, kwargs = cloudpickle.loads(body.policy.code)
        if body.states is not None:
            self._states, self._told_states = cloudpickle.loads(body.states), body.states
        self._load = body
        if inspect.isclass(function):
            function = function(**kwargs)
        self._policy = function

    def _decide(self, question: PolicyQuestion) -> PolicyAnswer:
        assert self._policy is not None, "a policy is loaded before it is asked"
        contexts = {facts.deployment: self._context(facts) for facts in question.deployments}
        if self._load.of_application:
            targets, states = self._ask_for_all(contexts)
        else:
            [(name, context)] = contexts.items()
            target, state = _parts(self._policy(context), "a number of replicas")
            targets, states = {name: _number(target, "")}, {name: self._states.get(name, {})}
            if state is not _UNCHANGED:
                states = {name: _state(state, "")}
        self._states = states
        return PolicyAnswer(targets=targets, states=self._news_of_states())

    def _ask_for_all(self, contexts: dict[str, AutoscalingContext]) -> tuple[dict[str, float], dict[str, Any]]:
        assert self._policy is not None
        by_id = {context.deployment_id: context for context in contexts.values()}
        targets, states = _parts(self._policy(by_id), "a dict of DeploymentID to number of replicas")
        found = {
            self._deployment(key, contexts): _number(target, f" for {key}")
            for key, target in _mapping(targets, "a dict of DeploymentID to number of replicas").items()
        }
        if states is _UNCHANGED:
            return found, self._states
        given = _mapping({} if states is None else states, "a dict of DeploymentID to dict as its state")
        return found, {self._deployment(key, contexts): _state(state, f" for {key}") for key, state in given.items()}

    def _deployment(self, key: Any, contexts: dict[str, AutoscalingContext]) -> str:
        name = key.name if isinstance(key, DeploymentID) else key
        if name not in contexts or (isinstance(key, DeploymentID) and key.app_name != self._load.app):
            raise PolicyError(
                f"returned something for {key!r}, which it was not asked for; it was asked for {', '.join(contexts)}"
            )
        return str(name)

    def _news_of_states(self) -> bytes | None:
        try:
            states: bytes = cloudpickle.dumps(self._states)
        except Exception:  # user objects may raise anything; the state then lives in this process alone
            return None
        if states == self._told_states or len(states) > MAX_STATE_BYTES:
            return None
        self._told_states = states
        return states

    def _context(self, facts: DeploymentFacts) -> AutoscalingContext:
        deployment = DeploymentID(facts.deployment, self._load.app)
        replicas = {name: ReplicaID(name, deployment) for name in facts.running_replicas}
        return AutoscalingContext(
            deployment_id=deployment,
            deployment_name=deployment.name,
            app_name=deployment.app_name,
            current_num_replicas=len(replicas),
            target_num_replicas=facts.target_num_replicas,
            running_replicas=list(replicas.values()),
            total_num_requests=facts.total_num_requests,
            total_queued_requests=facts.total_queued_requests,
            aggregated_metrics={
                metric: {replicas[name]: value for name, value in values.items() if name in replicas}
                for metric, values in facts.aggregated_metrics.items()
            },
            raw_metrics={
                metric: {
                    replicas[name]: [TimeStampedValue(at, value) for at, value in series]
                    for name, series in by_replica.items()
                    if name in replicas
                }
                for metric, by_replica in facts.raw_metrics.items()
            },
            capacity_adjusted_min_replicas=facts.min_replicas,
            capacity_adjusted_max_replicas=facts.max_replicas,
            policy_state=dict(self._states.get(facts.deployment, {})),
            last_scale_up_time=facts.last_scale_up_time,
            last_scale_down_time=facts.last_scale_down_time,
            current_time=facts.current_time,
            config=self._config(facts),
        )

    def _config(self, facts: DeploymentFacts) -> AutoscalingConfig:
        known = self._configs.get(facts.deployment)
        if known is None or known[0] != facts.config:
            known = self._configs[facts.deployment] = (facts.config, AutoscalingConfig(**facts.config))
        return known[1]


_UNCHANGED: Any = object()


def _parts(result: Any, expected: str) -> tuple[Any, Any]:
    """What a policy returned, as target and state."""
    if not isinstance(result, tuple):
        return result, _UNCHANGED
    if len(result) != 2:
        raise PolicyError(f"must return {expected}, or that and its state, not {_shown(result)}")
    return result


def _number(value: Any, where: str) -> float:
    # NumPy's numbers are none of Python's, but become one.
    if isinstance(value, str | bytes | bool | None):
        raise PolicyError(f"must return a number of replicas{where}, not {_shown(value)}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise PolicyError(f"must return a number of replicas{where}, not {_shown(value)}") from None
    if not math.isfinite(number):
        raise PolicyError(f"must return a finite number of replicas{where}, not {number}")
    return number


def _state(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise PolicyError(f"must return a dict as its state{where}, not {_shown(value)}")
    return value


def _mapping(value: Any, expected: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise PolicyError(f"must return {expected}, not {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # a repr of the user's may raise anything
        text = "something without a repr"
    return f"{text[:80]} (of type {type(value).__name__})"
