"""Keeps the process of one autoscaling policy alive, and asks it. User code fails there, and nothing fails here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from typing import Any

import msgspec

from headrace.config.policy_call import PolicyAnswer, PolicyLoad, PolicyQuestion
from headrace.controller.services import describe_exit
from headrace.engine.process import ProcessExited, ProcessInfo, ProcessSpec
from headrace.engine.protocol import Engine
from headrace.engine.resources import Refusal, ResourceRequest
from headrace.exceptions import StartupError
from headrace.wire.errors import ConnectionLost, RpcError, WireError
from headrace.wire.rpc import RpcClient

logger = logging.getLogger("headrace.controller")

PROCESS_PREFIX = "policy:"
"""The engine's name of a policy's process is this, whose policy it is, and a short id."""

POLICY_ENTRY = "headrace.policy_process:main"

SLOW_AFTER_S = 5.0
"""A policy that takes so long is said to. Its answer still counts when it comes."""

GIVE_UP_AFTER_S = 120.0
"""One that takes so long hangs, and is started again."""

CONNECT_S = 30.0
"""It listens before it runs, but a busy machine may be long in coming to it."""

LONGEST_PROBLEM = 10_000
"""Characters of what a policy raised, with its traceback, that are kept and shown."""

_LIVED_S = 60.0
_LONGEST_PAUSE_S = 60.0
_EXIT_S = 1.0


class PolicyProcessSpec(msgspec.Struct, frozen=True, kw_only=True):
    """
    Attributes:
        owner: "<app>#<deployment>", or "<app>" where it decides for a whole application.
        version: of the policy and its environment.
        load: what it is told first, without a state.
        env, cwd: of its process.
        runtime_env: all of its environment.
        logging: how it logs.
    """

    owner: str
    version: str
    load: PolicyLoad
    env: dict[str, str]
    cwd: str | None
    runtime_env: dict[str, Any]
    logging: dict[str, Any]


class _Gone(Exception):
    """The process is of no use any more; the message says why, with the policy as its subject."""


class PolicyRunner:
    """
    Args:
        spec: what to run.
        engine, secret: where it runs, and how it is talked to.
        new_short_id: makes the last part of a process's name.
        question: what to ask, at the moment at which it is asked.
        on_news: called when `answer` or `problem` has changed.
        give_up_after_s: how long an answer may take.

    Attributes:
        answer: the last one; None until there is one.
        problem: why there is none since then, with the policy as its subject ("raised ValueError: …"), else None.
    """

    def __init__(
        self,
        spec: PolicyProcessSpec,
        engine: Engine,
        secret: bytes,
        new_short_id: Callable[[], str],
        question: Callable[[], PolicyQuestion],
        on_news: Callable[[], None],
        give_up_after_s: float = GIVE_UP_AFTER_S,
    ) -> None:
        self.spec = spec
        self.answer: PolicyAnswer | None = None
        self.problem: str | None = None
        self.process_name = ""
        self._address = ""
        self._engine = engine
        self._secret = secret
        self._new_short_id = new_short_id
        self._question = question
        self._on_news = on_news
        self._give_up_after_s = give_up_after_s
        self._states: bytes | None = None
        self._asked = False
        self._bell = asyncio.Event()
        self._exit: asyncio.Future[ProcessExited] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    def begin(self, found: ProcessInfo | None = None) -> None:
        """Start the process, or take over the one that an earlier controller started."""
        if found is not None:
            self.process_name, self._address = found.name, found.address
        self._task = asyncio.get_running_loop().create_task(self._run())

    def ask(self) -> None:
        """Ask as soon as the last question is answered."""
        self._asked = True
        self._bell.set()

    def exited(self, exited: ProcessExited) -> None:
        """The process has ended."""
        if not self._exit.done():
            self._exit.set_result(exited)

    def close(self) -> None:
        """Ask no more, and leave the process as it is."""
        if self._task is not None:
            self._task.cancel()

    async def end(self) -> None:
        """Ask no more, and end the process."""
        self.close()
        await self._kill()

    async def _run(self) -> None:
        failures, loop = 0, asyncio.get_running_loop()
        while True:
            begun = loop.time()
            try:
                await self._ask_while_it_lives()
            except _Gone as gone:
                self._tell(str(gone))
            except (StartupError, WireError, OSError) as error:
                self._tell(f"could not be started: {error}")
            except Exception:
                # A mistake of ours must not end this task in silence.
                logger.exception("the autoscaling policy of %s: internal error; it is started again", self.spec.owner)
                self._tell("met an internal error; the controller's log has the details")
            failures = 1 if loop.time() - begun > _LIVED_S else failures + 1
            await self._kill()
            self.process_name = ""
            # At once the first time: a crash may be an accident. Then later and later.
            if failures > 1:
                await asyncio.sleep(min(_LONGEST_PAUSE_S, 0.5 * 2 ** (failures - 2)))

    async def _ask_while_it_lives(self) -> None:
        self._exit = asyncio.get_running_loop().create_future()
        if not self.process_name:
            await self._start()
        client = await self._connected()
        client.on_lost = self._bell.set
        try:
            load = msgspec.structs.replace(self.spec.load, states=self._states)
            try:
                await self._call(client, "load", load)
            except RpcError as error:
                raise _Gone(f"could not be loaded: it {error.message}") from None
            while True:
                await self._answer_one(client)
        finally:
            client.close()

    async def _start(self) -> None:
        spec = self.spec
        short_id = self._new_short_id()
        self.process_name = f"{PROCESS_PREFIX}{spec.owner}#{short_id}"
        # It asks for no resources, and may ask for what there is not to run in.
        granted = self._engine.allocate(self.process_name, ResourceRequest(runtime_env=spec.runtime_env))
        if isinstance(granted, Refusal):
            raise StartupError(granted.reason)
        started = await self._engine.start(
            ProcessSpec(
                name=self.process_name,
                role="policy",
                entry=POLICY_ENTRY,
                args={"owner": spec.owner, "version": spec.version, "logging": spec.logging},
                listen=f"{short_id}.sock",
                env=spec.env,
                cwd=spec.cwd,
            )
        )
        self._address = started.address

    async def _connected(self) -> RpcClient:
        try:
            return await RpcClient.connect(self._address, self._secret, CONNECT_S)
        except (WireError, OSError):
            raise _Gone(await self._how_it_ended()) from None

    async def _answer_one(self, client: RpcClient) -> None:
        while not self._asked and not client.closed:
            self._bell.clear()
            await self._bell.wait()
        if client.closed:
            raise _Gone(await self._how_it_ended())
        self._asked = False
        try:
            answer = await self._call(client, "decide", self._question(), PolicyAnswer)
        except RpcError as error:
            self._tell(error.message)
            return
        except _Gone:
            self._asked = True  # its next process is asked again
            raise
        self.answer, self.problem = answer, None
        if answer.states is not None:
            self._states = answer.states
        self._on_news()

    async def _call(self, client: RpcClient, method: str, body: Any, type: Any = Any) -> Any:
        slow = asyncio.get_running_loop().call_later(
            SLOW_AFTER_S, self._tell, f"has not answered for {SLOW_AFTER_S:g} s"
        )
        try:
            return await client.call(method, body, type=type, timeout_s=self._give_up_after_s)
        except TimeoutError:
            raise _Gone(f"did not answer within {self._give_up_after_s:g} s; its process is started again") from None
        except ConnectionLost:
            raise _Gone(await self._how_it_ended()) from None
        finally:
            slow.cancel()

    async def _how_it_ended(self) -> str:
        try:
            exited = await asyncio.wait_for(asyncio.shield(self._exit), _EXIT_S)
        except TimeoutError:
            return "is out of reach; its process is started again"
        return f"is gone: {describe_exit(exited)}, and is started again"

    def _tell(self, problem: str) -> None:
        if len(problem) > LONGEST_PROBLEM:  # the beginning says what, the end where
            problem = f"{problem[: LONGEST_PROBLEM // 2]} … {problem[-LONGEST_PROBLEM // 2 :]}"
        if problem != self.problem:
            logger.warning("the autoscaling policy %s of %s %s", self.spec.load.policy.name, self.spec.owner, problem)
        self.problem = problem
        self._on_news()

    async def _kill(self) -> None:
        if self.process_name:
            with contextlib.suppress(ConnectionError):  # the engine is gone, and the process with it
                await self._engine.kill(self.process_name, signal.SIGKILL)
            self._engine.release(self.process_name)
