"""What is remembered of prefixes: bounded, and always beginnings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.llm.routing import RoutingHint
from headrace.llm.routing.prefix_memory import PrefixMemory

BLOCK = 4
prompts = st.lists(st.text("ab", max_size=40).map(str.encode), max_size=30)


def chain(prompt: bytes) -> tuple[int, ...]:
    return RoutingHint(prompt).chain(BLOCK)


def common_blocks(one: bytes, other: bytes) -> int:
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return same // BLOCK


@given(prompts, st.text("ab", max_size=40).map(str.encode))
def test_with_room_the_longest_common_beginning_is_known(seen: list[bytes], prompt: bytes) -> None:
    memory = PrefixMemory(10_000)
    for earlier in seen:
        memory.remember(chain(earlier))
    assert memory.matched(chain(prompt)) == max((common_blocks(prompt, earlier) for earlier in seen), default=0)


@given(st.integers(1, 12), prompts)
def test_it_never_outgrows_its_limit_and_never_knows_an_end_without_its_beginning(
    limit: int, seen: list[bytes]
) -> None:
    memory = PrefixMemory(limit)
    for count, prompt in enumerate(seen, 1):
        memory.remember(chain(prompt))
        assert len(memory) <= limit
        assert memory.matched(chain(prompt)) == min(limit, len(chain(prompt)))
        for earlier in seen[:count]:
            blocks = chain(earlier)
            known = [block in memory._blocks for block in blocks]
            assert known == sorted(known, reverse=True)
            assert memory.matched(blocks) == sum(known)


def test_the_prompt_that_was_used_longest_ago_is_forgotten_first() -> None:
    memory = PrefixMemory(4)
    old, new, newest = (chain(letter * 2 * BLOCK) for letter in (b"a", b"b", b"c"))
    for used in (old, new, old, newest):
        memory.remember(used)
    assert [memory.matched(prompt) for prompt in (old, new, newest)] == [2, 0, 2]


def test_the_same_text_for_another_adapter_is_another_prompt() -> None:
    memory = PrefixMemory(10)
    memory.remember(RoutingHint(b"abcdabcd", "base:x").chain(BLOCK))
    assert memory.matched(RoutingHint(b"abcdabcd", "base:x").chain(BLOCK)) == 2
    assert memory.matched(RoutingHint(b"abcdabcd", "base:y").chain(BLOCK)) == 0
