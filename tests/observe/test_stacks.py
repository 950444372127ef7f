"""Stacks of this process: of threads, of tasks that wait for each other, and never a value."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator

import msgspec

from headrace.observe.stacks import MAX_FRAMES, ProcessStacks, TaskStack, process_stacks


def tasks(*names: str) -> list[TaskStack]:
    """The groups that a task of one of these names is in."""
    return [group for group in process_stacks(asyncio.get_running_loop()).tasks if set(names) & set(group.names)]


def functions(stack: TaskStack) -> list[str]:
    return [frame.function.rpartition(".")[2] for frame in stack.frames]


async def inner(event: asyncio.Event) -> None:
    await event.wait()


async def outer(event: asyncio.Event) -> None:
    await inner(event)


async def test_a_task_is_told_with_all_that_it_awaits() -> None:
    event = asyncio.Event()
    task = asyncio.create_task(outer(event), name="mine")
    await asyncio.sleep(0)
    [told] = tasks("mine")
    assert functions(told) == ["outer", "inner", "wait"]
    assert told.frames[1].file == __file__ and told.frames[1].line == inner.__code__.co_firstlineno + 1
    assert told.waits_for == "asyncio.Future"
    event.set()
    await task


async def test_a_task_that_waits_for_another_says_which() -> None:
    event = asyncio.Event()
    awaited = asyncio.create_task(inner(event), name="awaited")

    async def waits() -> None:
        await awaited

    task = asyncio.create_task(waits(), name="waits")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    [told] = tasks("waits")
    assert told.waits_for == "task awaited"
    event.set()
    await task


async def test_tasks_at_the_same_place_are_counted() -> None:
    event = asyncio.Event()
    all_of_them = [asyncio.create_task(outer(event), name=f"t{number}") for number in range(100)]
    await asyncio.sleep(0)
    [told] = tasks("t0")
    assert told.count == 100 and len(told.names) == 3
    event.set()
    await asyncio.gather(*all_of_them)


async def test_async_generators_and_running_tasks_are_told() -> None:
    event = asyncio.Event()

    async def numbers() -> AsyncIterator[int]:
        await event.wait()
        yield 1

    async def reads() -> None:
        async for _ in numbers():
            pass

    task = asyncio.create_task(reads(), name="reads")
    await asyncio.sleep(0)
    [told] = tasks("reads")
    assert functions(told)[0] == "reads" and told.waits_for
    own = asyncio.current_task()
    assert own is not None
    [running] = tasks(own.get_name())
    assert running.waits_for == ""
    event.set()
    await task


async def test_threads_are_told_and_no_values() -> None:
    go = threading.Event()

    def work(password: str) -> None:
        go.wait()

    thread = threading.Thread(target=work, args=("hunter2",), name="worker")
    thread.start()
    try:
        stacks = process_stacks(asyncio.get_running_loop())
    finally:
        go.set()
        thread.join()
    [told] = [each for each in stacks.threads if each.name == "worker"]
    assert any(frame.function.endswith("work") for frame in told.frames)
    assert stacks.threads[0].name == "MainThread" and stacks.threads[0].id == os.getpid() == stacks.pid
    encoded = msgspec.json.encode(stacks)
    assert b"hunter2" not in encoded
    assert msgspec.json.decode(encoded, type=ProcessStacks) == stacks


async def test_of_a_deep_recursion_the_innermost_frames_are_told() -> None:
    def deep(levels: int) -> ProcessStacks:
        return deep(levels - 1) if levels else process_stacks(None)

    frames = deep(500).threads[0].frames
    assert len(frames) == MAX_FRAMES
    assert frames[-1].function == "_threads" and frames[0].function.endswith("deep")
