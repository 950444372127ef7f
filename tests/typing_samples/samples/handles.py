"""Calls through handles."""

# Each expectation is on the line of its code, however long that gets.
# ruff: noqa: E501, F841
# fmt: off

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import TypeVar, overload, reveal_type

import headrace as serve

V = TypeVar("V")


class Model:
    threshold: float = 0.5

    async def __call__(self, text: str) -> list[float]:
        return [self.threshold]

    async def predict(self, text: str, top_k: int = 3) -> dict[str, float]:
        return {}

    def describe(self) -> str:
        return ""

    async def tokens(self, prompt: str) -> AsyncIterator[int]:
        yield 1

    def lines(self, prompt: str) -> Iterator[str]:
        yield ""

    async def same(self, value: V) -> V:
        return value

    @overload
    def either(self, value: int) -> int: ...
    @overload
    def either(self, value: str) -> str: ...
    def either(self, value: int | str) -> int | str:
        return value

    @serve.batch(max_batch_size=8)
    async def batched(self, texts: list[str]) -> list[int]:
        return [len(text) for text in texts]

    @serve.batch
    async def streamed(self, texts: list[str]) -> AsyncGenerator[list[bytes], None]:
        yield [b""]

    @serve.multiplexed(max_num_models_per_replica=2)
    async def load(self, model_id: str) -> float:
        return 0.0


class Client:
    def __init__(self, model: serve.DeploymentHandle[Model]) -> None:
        self.model = model

    async def right(self) -> None:
        reveal_type(self.model.remote("a"))  # R: headrace.response.DeploymentResponse[list[float]]
        reveal_type(await self.model.remote(text="a"))  # R: list[float]
        reveal_type(await self.model.predict.remote("a", top_k=1))  # R: dict[str, float]
        reveal_type(self.model.describe.remote().result())  # R: str
        reveal_type(await self.model.batched.remote("a"))  # R: int
        reveal_type(await self.model.load.remote("a"))  # R: float
        await self.model.options(multiplexed_model_id="m").predict.remote("a")
        await self.model.predict.options(timeout_s=1).remote("a")

    async def wrong(self) -> None:
        self.model.remote(1)  # E: Argument 1 to "remote" of "DeploymentHandle" has incompatible type "int"; expected "str | DeploymentResponse[str]"
        self.model.remote()  # E: Missing positional argument "text" in call to "remote" of "DeploymentHandle"
        self.model.predict.remote(1)  # E: Argument 1 to "remote" of "MethodHandle" has incompatible type "int"; expected "str | DeploymentResponse[str]"
        self.model.predict.remote("a", top=1)  # E: Unexpected keyword argument "top" for "remote" of "MethodHandle"
        self.model.predict.remote()  # E: Missing positional argument "text" in call to "remote" of "MethodHandle"
        self.model.batched.remote(["a"])  # E: Argument 1 to "remote" of "MethodHandle" has incompatible type "list[str]"; expected "str | DeploymentResponse[str]"
        self.model.predcit.remote("a")  # E: "Model" has no attribute "predcit"; maybe "predict"?
        self.model.threshold.remote()  # E: "threshold" of "Model" is not a method
        number: int = await self.model.predict.remote("a")  # E: Incompatible types in assignment (expression has type "dict[str, float]", variable has type "int")
        self.model.options(max_retries=1)  # E: Unexpected keyword argument "max_retries" for overloaded function "options" of "DeploymentHandle"

    async def responses_are_arguments(self) -> None:
        text = self.model.describe.remote()
        await self.model.predict.remote(text)
        await self.model.remote(text)
        number = self.model.batched.remote(text)
        await self.model.predict.remote(number)  # E: Argument 1 to "remote" of "MethodHandle" has incompatible type "DeploymentResponse[int]"; expected "str | DeploymentResponse[str]"

    async def streams(self) -> None:
        reveal_type(self.model.tokens.options(stream=True).remote("a"))  # R: headrace.response.DeploymentResponseGenerator[int]
        async for token in self.model.options(stream=True).tokens.remote("a"):
            reveal_type(token)  # R: int
        for line in self.model.options(stream=True).lines.remote("a"):
            reveal_type(line)  # R: str
        async for chunk in self.model.streamed.options(stream=True).remote("a"):
            reveal_type(chunk)  # R: bytes
        self.model.options(stream=True).tokens.remote(1)  # E: Argument 1 to "remote" of "StreamMethodHandle" has incompatible type "int"; expected "str | DeploymentResponse[str]"
        self.model.tokens.remote("a")  # E: "tokens" is a generator: call it through .options(stream=True)

    async def names_in_options(self) -> None:
        reveal_type(await self.model.options(method_name="predict").remote("a"))  # R: dict[str, float]
        self.model.options(method_name="predcit")  # E: "Model" has no attribute "predcit"; maybe "predict"?

    async def without_a_plugin(self) -> None:
        reveal_type(await self.model.method(Model.predict).remote("a"))  # R: dict[str, float]
        reveal_type(await self.model.method(Model.batched).remote("a"))  # R: int
        async for token in self.model.method(Model.tokens, stream=True).remote("a"):
            reveal_type(token)  # R: int
        self.model.method(Model.predict).remote(1)  # E: Argument 1 to "remote" of "MethodHandle" has incompatible type "int"; expected "str | DeploymentResponse[str]"
        await self.model.method(Model.predict).remote(self.model.describe.remote())

    async def not_checked(self) -> None:
        reveal_type(await self.model.same.remote(1))  # R: Any
        reveal_type(await self.model.either.remote([]))  # R: int | str


async def unknown(handle: serve.DeploymentHandle) -> None:  # type: ignore[type-arg]
    await handle.anything.remote(1, 2, three=3)
    await handle.remote(1)
    await handle.options(stream=True).anything.remote()


class Silent:
    pass


def no_call(handle: serve.DeploymentHandle[Silent], either: serve.DeploymentHandle[Model] | None) -> None:
    handle.remote()  # E: "Silent" not callable
    either.predict.remote("a")  # E: Item "None" of "DeploymentHandle[Model] | None" has no attribute "predict"
    if either is not None:
        either.predict.remote("a")
