"""No two processes of an instance are named alike, wherever they run."""

from __future__ import annotations

import random

from headrace.controller.short_ids import ShortIds


class _Loaded(random.Random):
    """Chance that says the same three times before it says something else."""

    def __init__(self) -> None:
        super().__init__(0)
        self.times = 0

    def choices(self, population, *, k):  # type: ignore[no-untyped-def, override]
        self.times += 1
        return list("aaaaa") if self.times <= 3 else list("bbbbb")


def test_an_id_is_given_out_once() -> None:
    ids = ShortIds(_Loaded())
    assert (ids.new(), ids.new()) == ("aaaaa", "bbbbb")


def test_the_ids_of_processes_that_run_already_are_not_given_out() -> None:
    ids = ShortIds(_Loaded())
    ids.note("replica:app#Model#aaaaa")
    ids.note("proxy-0")
    assert ids.new() == "bbbbb"


def test_the_id_of_a_process_that_has_ended_may_come_again() -> None:
    ids = ShortIds(_Loaded())
    ids.note("replica:app#Model#aaaaa")
    ids.free("replica:app#Model#aaaaa")
    ids.free("proxy-0")
    assert ids.new() == "aaaaa"
