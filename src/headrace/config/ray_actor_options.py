"""What one replica needs: resources, and the environment of its process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from headrace.config.model import ConfigModel, JsonObject, Name, NonNegativeInt, NonNegativeNumber
from headrace.config.problems import shown

REMOTE = ("s3://", "gs://", "gcs://", "https://", "http://", "azure://", "abfss://", "hdfs://")


INSTALLING = ("pip", "uv", "conda", "image_uri", "py_modules", "py_executable")
"""What makes another environment than that of the process that asks for it."""

Requirements = str | list[str] | JsonObject


class RuntimeEnv(ConfigModel):
    """The environment of a replica's process. What installs or downloads something is done by Ray: on this machine
    alone, replicas run in the environment that Headrace runs in, and a deployment that asks for more is refused.

    Attributes:
        env_vars: environment variables to set.
        working_dir: folder that becomes the working directory and comes first on `sys.path`; `local:///folder` is
            taken too. On a cluster also an archive that every machine can download, such as "s3://bucket/app.zip".
        pip, uv: requirements to install: a list of them, the path of a file, or what Ray takes besides.
        conda: name of a conda environment, or what one consists of.
        image_uri: container image to run in.
        py_modules: packages to import, each a folder or an archive that every machine can download.
        py_executable: how to run Python.
    """

    title: ClassVar[str] = "wrong runtime_env"
    refused: ClassVar[Mapping[str, str]] = {
        "container": "is called 'image_uri' now",
        "excludes": "is not needed: 'working_dir' is used in place and nothing is uploaded; remove it",
        "worker_process_setup_hook": "is not available; do the set-up in the deployment's constructor",
        "config": "is not available: it configures how Ray builds environments; remove it",
    }

    env_vars: dict[str, str] = Field(default_factory=dict)
    working_dir: str | None = None
    pip: Requirements | None = None
    uv: Requirements | None = None
    conda: str | JsonObject | None = None
    image_uri: str | None = None
    py_modules: list[str] | None = None
    py_executable: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _empty_is_absent(cls, data: Any) -> Any:
        # Generated files say `pip: []`.
        if not isinstance(data, Mapping):
            return data
        return {name: value for name, value in data.items() if value or name not in {*cls.refused, *INSTALLING}}

    @field_validator("env_vars")
    @classmethod
    def _names_that_an_environment_can_hold(cls, env_vars: dict[str, str]) -> dict[str, str]:
        for name, value in env_vars.items():
            if not name or "=" in name or "\0" in name or "\0" in value:
                raise ValueError(f"{shown(name)} cannot be an environment variable")
        return env_vars

    @field_validator("working_dir")
    @classmethod
    def _a_folder_or_an_archive(cls, working_dir: str | None) -> str | None:
        if working_dir is None or working_dir.startswith(REMOTE):
            return working_dir
        working_dir = working_dir.removeprefix("local://").removeprefix("file://")
        if not working_dir or "\0" in working_dir:
            raise ValueError("must be the path of a folder")
        return working_dir

    @model_serializer(mode="wrap")
    def _what_is_set(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Ray reads these, and takes an option that is there for one that is meant.
        return {name: value for name, value in dump(self).items() if value is not None}

    @property
    def folder(self) -> str | None:
        """`working_dir`, where it is a folder and no archive."""
        return None if self.working_dir is None or self.working_dir.startswith(REMOTE) else self.working_dir

    def over(self, outer: RuntimeEnv) -> RuntimeEnv:
        """This environment inside `outer` (a deployment's inside its application's): variables add up, ours win, and
        so does all else that is ours."""
        ours, theirs = (env.model_dump(exclude={"env_vars"}) for env in (self, outer))
        return RuntimeEnv(env_vars={**outer.env_vars, **self.env_vars}, **{**theirs, **ours})


def _resource_amounts(value: Any) -> Any:
    if isinstance(value, Mapping):
        for name, option in (("CPU", "num_cpus"), ("GPU", "num_gpus"), ("memory", "memory")):
            if name in value:
                raise ValueError(f"'{name}' is not a custom resource; use the option '{option}'")
    return value


Resources = Annotated[dict[Name, NonNegativeNumber], BeforeValidator(_resource_amounts)]


def _whole_above_one(num_gpus: Any) -> Any:
    if isinstance(num_gpus, float) and num_gpus > 1 and not num_gpus.is_integer():
        raise ValueError(f"must be a fraction of one GPU or a whole number of GPUs, not {num_gpus}")
    return num_gpus


Gpus = Annotated[NonNegativeNumber, BeforeValidator(_whole_above_one)]


class RayActorOptions(ConfigModel):
    """Resources and environment of one replica; the name is Ray's, the options too.

    Attributes:
        num_cpus: CPU cores; fractions are fine. On one machine a hint, never a reason not to start.
        num_gpus: GPUs: a fraction up to 1 (replicas share one), or a whole number.
        memory: bytes of memory to reserve; None for no reservation.
        resources: custom resources by name, as declared when the instance was started.
        runtime_env: environment variables, working directory, and what is installed.
        accelerator_type: kind of accelerator that the machine must have.
        label_selector: labels that the machine must have.
        fallback_strategy: label selectors to try when no machine has the labels.
    """

    title: ClassVar[str] = "wrong ray_actor_options"

    num_cpus: NonNegativeNumber = 1.0
    num_gpus: Gpus = 0.0
    memory: NonNegativeInt | None = None
    resources: Resources = Field(default_factory=dict)
    runtime_env: RuntimeEnv = Field(default_factory=RuntimeEnv)
    accelerator_type: Name | None = None
    label_selector: dict[str, str] | None = None
    fallback_strategy: list[JsonObject] | None = None

    @field_validator("memory", mode="before")
    @classmethod
    def _whole_bytes(cls, memory: Any) -> Any:
        # `2 * 1e9` is a float to Python and a number of bytes to everybody else.
        return int(memory) if isinstance(memory, float) and memory.is_integer() else memory
