"""Who may begin while others are under way."""

from __future__ import annotations

import asyncio

import pytest

from headrace.llm.batch.priority_gate import PriorityGate


async def test_requests_of_batches_fill_the_places_and_then_wait_in_turn() -> None:
    gate = PriorityGate(2)
    await gate.enter_behind()
    await gate.enter_behind()
    order: list[int] = []

    async def one(number: int) -> None:
        await gate.enter_behind()
        order.append(number)

    waiting = [asyncio.create_task(one(number)) for number in range(3)]
    await asyncio.sleep(0)
    assert order == []
    for _ in waiting:
        gate.leave()
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2]


async def test_live_requests_never_wait_and_hold_batches_back() -> None:
    gate = PriorityGate(2)
    for _ in range(5):
        gate.enter()
    behind = asyncio.create_task(gate.enter_behind())
    for _ in range(3):
        gate.leave()
        await asyncio.sleep(0)
        assert not behind.done()
    gate.leave()
    await behind


@pytest.mark.parametrize("granted", [False, True])
async def test_one_that_gives_up_leaves_its_place_to_the_next(granted: bool) -> None:
    gate = PriorityGate(1)
    gate.enter()
    first, second = (asyncio.create_task(gate.enter_behind()) for _ in range(2))
    await asyncio.sleep(0)
    if granted:
        gate.leave()  # it has its turn, and is cancelled before it knows
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    if not granted:
        gate.leave()
    await asyncio.wait_for(second, 5)
