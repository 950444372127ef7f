"""The cases that are timed one by one."""

from __future__ import annotations

from bench.micro.__main__ import all_cases


def test_every_case_of_the_request_path_runs() -> None:
    with all_cases() as cases:
        for case in cases:
            case.call()
        assert len({(case.group, case.name) for case in cases}) == len(cases) > 20
