"""Addresses are read one way, and nothing but a plain socket's name passes for one behind a gate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.wire.address import (
    TcpAddress,
    UnixAddress,
    gate_address,
    is_socket_name,
    parse_address,
    tcp_address,
)

names = st.from_regex(r"[A-Za-z0-9_-]{1,64}\.(sock|vitals)", fullmatch=True)
hosts = st.sampled_from(["10.0.0.7", "worker-3.cluster.local", "::1", "fe80::1", "localhost"])
ports = st.integers(1, 65535)


@given(hosts, ports, names)
def test_what_is_written_is_read_again(host: str, port: int, name: str) -> None:
    assert parse_address(tcp_address(host, port)) == TcpAddress(host, port)
    assert parse_address(gate_address(host, port, name)) == TcpAddress(host, port, name)


def test_paths_are_unix_sockets() -> None:
    assert parse_address("/tmp/x/controller.sock") == UnixAddress("/tmp/x/controller.sock")
    assert parse_address("./controller.sock") == UnixAddress("./controller.sock")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host",
        "host:",
        ":80",
        "host:0",
        "host:65536",
        "host:eighty",
        "host:-1",
        "host:٣",
        "host:80/",
        "host:80/../secret",
        "host:80/a/b.sock",
        "host:80/.sock",
        "host:80/a.b.sock",
        "host:80/secret",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        parse_address(address)


@given(st.text())
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    if is_socket_name(name):
        assert "/" not in name and "\0" not in name and name.count(".") == 1 and not name.startswith(".")
