"""The autoscaling policies of all applications, each in a process of its own.

Not one process for all, and not one for each application: a policy that hangs or crashes then takes no other with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import signal
from collections.abc import Callable
from typing import Any

from headrace.config.policy_call import PolicyLoad, PolicyQuestion
from headrace.config.ray_actor_options import RuntimeEnv
from headrace.config.spec import ApplicationSpec, DeploymentSpec, PolicySpec
from headrace.controller.autoscaling.asker import Asker, Member
from headrace.controller.autoscaling.policy_runner import PROCESS_PREFIX, PolicyProcessSpec, PolicyRunner
from headrace.controller.short_ids import ShortIds
from headrace.controller.spec_reading import environment_of, options_of
from headrace.engine.process import ProcessExited, ProcessInfo
from headrace.engine.protocol import Engine

logger = logging.getLogger("headrace.controller")

_Key = tuple[str, str]


class Policies:
    """
    Args:
        engine, secret: where policies run, and how they are talked to.
        short_ids: of the instance's processes.
        logging: how their processes log.
    """

    def __init__(self, engine: Engine, secret: bytes, short_ids: ShortIds, logging: dict[str, Any]) -> None:
        self._engine = engine
        self._secret = secret
        self._short_ids = short_ids
        self._logging = logging
        self._askers: dict[_Key, Asker] = {}
        self._joined: dict[Member, tuple[_Key, str]] = {}
        self._begun = False
        self._ending: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        """Take over the processes that an earlier controller started, end those that nothing wants, start the rest."""
        found: dict[_Key, ProcessInfo] = {}
        for info in await self._engine.list():
            if info.role == "policy":
                key = (str(info.args.get("owner")), str(info.args.get("version")))
                if key in self._askers and key not in found:
                    found[key] = info
                else:
                    await self._engine.kill(info.name, signal.SIGKILL)
                    self._engine.release(info.name)
        self._begun = True
        for key, asker in self._askers.items():
            asker.runner.begin(found.get(key))

    def join(self, member: Member, spec: DeploymentSpec, application: ApplicationSpec) -> Asker | None:
        """Have a deployment that scales itself decided for by its application's policy or by its own; leave any other.

        Returns:
            Who asks that policy; None where there is none, and the load decides.
        """
        policy = application.policy if application.policy is not None else spec.policy
        if policy is None:
            self.leave(member)
            return None
        of_application = policy is application.policy
        if of_application and spec.policy is not None:
            logger.warning(
                "deployment %s#%s has the policy %s, and its application the policy %s, which decides",
                spec.app,
                spec.name,
                spec.policy.name,
                policy.name,
            )
        process = self._process(policy, spec, application, of_application)
        key = (process.owner, process.version)
        if self._joined.get(member) != (key, spec.name):
            before = self._joined.pop(member, None)
            asker = self._askers.get(key)
            if asker is None:
                asker = self._askers[key] = Asker(policy.name, of_application, self._runner_of(process))
                if self._begun:
                    asker.runner.begin()
            asker.join(spec.name, member)
            self._joined[member] = (key, spec.name)
            if before is not None:
                self._leave(member, *before)
        return self._askers[key]

    def leave(self, member: Member) -> None:
        """The deployment is deleted, or does not scale itself any more. Does nothing if no policy decided for it."""
        joined = self._joined.pop(member, None)
        if joined is not None:
            self._leave(member, *joined)

    def _leave(self, member: Member, key: _Key, deployment: str) -> None:
        if not self._askers[key].leave(deployment, member):
            ending = asyncio.get_running_loop().create_task(self._askers.pop(key).end())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    def exited(self, exited: ProcessExited) -> None:
        """A process ended that is no replica."""
        if exited.name.startswith(PROCESS_PREFIX):
            for asker in self._askers.values():
                if asker.runner.process_name == exited.name:
                    asker.runner.exited(exited)

    def close(self) -> None:
        """Leave the processes as they are."""
        for asker in self._askers.values():
            asker.close()

    def _process(
        self, policy: PolicySpec, spec: DeploymentSpec, application: ApplicationSpec, of_application: bool
    ) -> PolicyProcessSpec:
        options = None if of_application else options_of(spec)
        environment = environment_of(options, application.runtime_env)
        sys_path = [str(path) for path in application.runtime_env.get("sys_path", [])]
        return PolicyProcessSpec(
            owner=spec.app if of_application else f"{spec.app}#{spec.name}",
            version=f"{policy.version}-{_digest(environment)}",
            load=PolicyLoad(policy=policy, app=spec.app, of_application=of_application, sys_path=sys_path),
            env=environment.env_vars,
            cwd=environment.folder,
            runtime_env=environment.model_dump(mode="json", exclude_defaults=True),
            logging=self._logging,
        )

    def _runner_of(
        self, process: PolicyProcessSpec
    ) -> Callable[[Callable[[], PolicyQuestion], Callable[[], None]], PolicyRunner]:
        def make(question: Callable[[], PolicyQuestion], on_news: Callable[[], None]) -> PolicyRunner:
            return PolicyRunner(
                process,
                self._engine,
                self._secret,
                self._short_ids.new,
                question,
                on_news,
            )

        return make


def _digest(environment: RuntimeEnv) -> str:
    text = json.dumps(environment.model_dump(mode="json", exclude_none=True), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
