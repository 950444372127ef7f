"""Which processes are meant by what somebody types."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.cli.process_target import only_target, targets
from headrace.exceptions import ConfigError


def replica(replica_id: str, pid: int | None = 7) -> dict[str, Any]:
    return {"replica_id": replica_id, "pid": pid, "node": "local"}


STATUS: dict[str, Any] = {
    "controller_pid": 2,
    "controller_node": "local",
    "proxies": [{"name": "proxy-0", "pid": 3}, {"name": "proxy-1", "pid": None}],
    "applications": [
        {
            "name": "shop",
            "deployments": [
                {"name": "Model", "replicas": [replica("shop#Model#aaaaa"), replica("shop#Model#baaaa")]},
                {"name": "Front", "replicas": [replica("shop#Front#ccccc")]},
                {"name": "Idle", "replicas": [replica("shop#Idle#ddddd", None)]},
            ],
        }
    ],
}


def names(text: str) -> list[str]:
    return [target.name for target in targets(text, STATUS)]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("shop/Model", ["shop#Model#aaaaa", "shop#Model#baaaa"]),
        ("shop#Front#ccccc", ["shop#Front#ccccc"]),
        ("ccccc", ["shop#Front#ccccc"]),
        ("#aaaaa", ["shop#Model#aaaaa"]),
        ("proxy", ["proxy-0"]),
        ("proxy-0", ["proxy-0"]),
        ("controller", [""]),
    ],
)
def test_processes_are_named(text: str, meant: list[str]) -> None:
    assert names(text) == meant


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("aaaa", "the ids of 2 replicas end so"),
        ("shop/Idle", "has no replica with a process at present"),
        ("proxy-1", "there is no proxy that runs"),
        ("shop/Modle", "did you mean 'shop/Model'"),
        ("controler", "did you mean 'controller'"),
        ("xyz", "there are the controller, proxies, and these replicas"),
    ],
)
def test_what_is_not_clear_is_said(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        targets(text, STATUS)


def test_where_one_process_is_wanted_several_are_listed() -> None:
    with pytest.raises(ConfigError, match=r"2 processes; name one of them:\n  shop#Model#aaaaa\n  shop#Model#baaaa"):
        only_target("shop/Model", STATUS)


def test_without_any_replica_that_is_said() -> None:
    with pytest.raises(ConfigError, match="no replica runs"):
        targets("xyz", {**STATUS, "applications": []})
