from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from headrace.llm.generation.stop_strings import StopStringScanner

_letters = st.text("ab\n", max_size=30)
_stops = st.lists(st.text("ab\n", min_size=1, max_size=5), min_size=1, max_size=4).map(tuple)


def _passed(scanner: StopStringScanner, parts: list[str]) -> str:
    return "".join(scanner.push(part) for part in parts) + scanner.flush()


def _cut(text: str, cuts: list[int]) -> list[str]:
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    return [text[start:stop] for start, stop in itertools.pairwise(places)]


@given(_letters, _stops, st.lists(st.integers(0, 30)), st.booleans())
def test_the_result_does_not_depend_on_how_the_text_was_cut(
    text: str, stops: tuple[str, ...], cuts: list[int], include: bool
) -> None:
    whole, parts = StopStringScanner(stops, include=include), StopStringScanner(stops, include=include)

    assert _passed(parts, _cut(text, cuts)) == _passed(whole, [text])
    assert parts.matched == whole.matched


@given(_letters, _stops, st.lists(st.integers(0, 30)))
def test_the_text_ends_before_the_stop_string_that_is_complete_first(
    text: str, stops: tuple[str, ...], cuts: list[int]
) -> None:
    scanner = StopStringScanner(stops)
    passed = _passed(scanner, _cut(text, cuts))

    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert passed == (text[: min(ends)[1]] if ends else text)


@given(_letters, _stops)
def test_nothing_of_a_stop_string_is_passed_on_while_it_is_read(text: str, stops: tuple[str, ...]) -> None:
    scanner = StopStringScanner(stops)
    final = _passed(StopStringScanner(stops), [text])

    so_far = ""
    for character in text:
        so_far += scanner.push(character)
        assert final.startswith(so_far)


def test_what_cannot_become_a_stop_string_is_passed_on_at_once() -> None:
    scanner = StopStringScanner(("</s>", "###"))

    assert [scanner.push(part) for part in ("a#", "b", "#", "#", "#c")] == ["a", "#b", "", "", ""]
    assert (scanner.matched, scanner.rest) == ("###", "c")


def test_a_stop_string_is_passed_on_where_the_client_wants_it() -> None:
    scanner = StopStringScanner(("END",), include=True)

    assert _passed(scanner, ["one E", "ND two"]) == "one END"
