"""Between machines that use TLS, both ends show a certificate of one authority; secrets and payloads are not seen."""

from __future__ import annotations

import asyncio
import datetime
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from headrace.engine.listeners import listen_unix
from headrace.exceptions import ConfigError
from headrace.wire import auth
from headrace.wire.callee import Listener, listen
from headrace.wire.caller import connect
from headrace.wire.errors import HandshakeFailed
from headrace.wire.relay import relay
from headrace.wire.tls import TlsFiles, tls_identity, use_tls

from .conditions import until
from .connected import SECRET, Recorded, Requests
from .test_gate import ended, opened, raw_socket, serving, tcp_listener


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(autouse=True)
def no_tls_afterwards() -> Iterator[None]:
    yield
    use_tls(None)


def certificate(authority: trustme.CA, folder: Path, name: str, **options: object) -> TlsFiles:
    issued = authority.issue_cert(f"{name}.example", **options)  # type: ignore[arg-type]
    files = TlsFiles(*(str(folder / f"{name}.{kind}") for kind in ("crt", "key", "ca")))
    for i, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(files.cert, append=i > 0)
    issued.private_key_pem.write_to_path(files.key)
    authority.cert_pem.write_to_path(files.ca)
    return files


async def serve_tcp(service: Requests) -> tuple[Listener, str]:
    listener = tcp_listener()
    return await listen(listener, SECRET, service), f"127.0.0.1:{listener.getsockname()[1]}"


async def test_calls_and_large_payloads_go_through(authority: trustme.CA, folder: Path) -> None:
    use_tls(certificate(authority, folder, "a"))
    service = Requests(lambda call: call.respond(0, call.header, bytes(call.payload)))
    listener, address = await serve_tcp(service)
    caller = await connect(address, SECRET)
    made = []
    for size in (0, 10, 20_000_000):
        made.append(Recorded())
        caller.call(made[-1], 0, b"h", bytes(size))
    assert [await call.ended for call in made] == ["response"] * 3
    assert [call.received for call in made] == [0, 10, 20_000_000]
    caller.close()
    await until(lambda: not listener.connections)
    listener.close()


async def test_two_machines_have_a_certificate_each(authority: trustme.CA, folder: Path) -> None:
    use_tls(certificate(authority, folder, "a"))
    listener, address = await serve_tcp(Requests(lambda call: call.respond(0, b"")))
    use_tls(certificate(authority, folder, "b"))
    caller = await connect(address, SECRET)
    call = Recorded()
    caller.call(call, 0, b"")
    assert await call.ended == "response"
    caller.close()
    listener.close()


async def test_a_gate_and_what_is_relayed_to_it_use_tls_and_unix_sockets_do_not(
    authority: trustme.CA, folder: Path
) -> None:
    use_tls(certificate(authority, folder, "a"))
    service = Requests(lambda call: call.respond(0, b"", bytes(call.payload)))
    async with serving(folder, service), opened(folder) as door:
        relayed = await relay(listen_unix(folder / "relay.sock"), SECRET, door.address)
        for address in (door.address(), str(folder / "relay.sock"), str(folder / "wire.sock")):
            caller = await connect(address, SECRET)
            call = Recorded()
            caller.call(call, 0, b"", bytes(3_000_000))
            assert await call.ended == "response" and call.received == 3_000_000
            caller.close()
        relayed.close()


async def test_what_is_said_before_a_close_arrives_through_tls(authority: trustme.CA, folder: Path) -> None:
    use_tls(certificate(authority, folder, "a"))
    async with raw_socket(folder) as arrived, opened(folder) as door:
        relayed = await relay(listen_unix(folder / "relay.sock"), SECRET, lambda: door.address("raw.sock"))
        for _ in range(10):
            reader, writer = await asyncio.open_unix_connection(folder / "relay.sock")
            _, inner_writer = await arrived.get()
            inner_writer.write(b"x" * 500_000)
            inner_writer.close()
            async with asyncio.timeout(10):
                assert len(await reader.read()) == 500_000
            writer.close()
        relayed.close()


@pytest.mark.parametrize("stranger", ["another authority", "expired", "not yet valid"])
@pytest.mark.parametrize("wrong", ["caller", "callee"])
async def test_a_certificate_that_proves_nothing_is_refused(
    stranger: str, wrong: str, authority: trustme.CA, folder: Path
) -> None:
    good = certificate(authority, folder, "good")
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    if stranger == "another authority":
        bad = certificate(trustme.CA(), folder, "bad")._replace(ca=good.ca)
    elif stranger == "expired":
        bad = certificate(authority, folder, "bad", not_before=now - 2 * day, not_after=now - day)
    else:
        bad = certificate(authority, folder, "bad", not_before=now + day, not_after=now + 2 * day)
    service = Requests()
    use_tls(bad if wrong == "callee" else good)
    listener, address = await serve_tcp(service)
    use_tls(bad if wrong == "caller" else good)
    with pytest.raises((ssl.SSLError, HandshakeFailed, ConnectionError)) as refused:
        await connect(address, SECRET)
    assert "certificate" in str(refused.value) or isinstance(refused.value, ConnectionError)
    assert not service.calls
    listener.close()


async def test_a_peer_without_tls_is_refused_both_ways(authority: trustme.CA, folder: Path) -> None:
    files = certificate(authority, folder, "a")
    use_tls(files)
    secured, secured_at = await serve_tcp(Requests())
    async with opened(folder) as door:
        use_tls(None)
        for address in (secured_at, door.address()):
            with pytest.raises(TimeoutError, match="it may want TLS"):
                await connect(address, SECRET, timeout_s=0.5)
    plain, plain_at = await serve_tcp(Requests())
    use_tls(files)
    with pytest.raises(OSError):
        await connect(plain_at, SECRET)
    secured.close()
    plain.close()


async def test_nobody_in_the_middle_can_hand_a_handshake_on(authority: trustme.CA, folder: Path) -> None:
    """Another certificate of the same authority, but not the secret: it could repeat each end's proof to the other."""
    use_tls(certificate(authority, folder, "callee"))
    service = Requests()
    listener, address = await serve_tcp(service)
    use_tls(certificate(authority, folder, "middle"))
    host, port = address.split(":")
    identity = tls_identity()
    assert identity is not None

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port), ssl=identity.client)
        writer.write(await far_reader.readexactly(auth.SERVER_HELLO_BYTES))
        far_writer.write(await reader.readexactly(auth.CLIENT_HELLO_BYTES))
        assert await far_reader.read(1) == b""
        writer.close()
        far_writer.close()

    middle = await asyncio.start_server(between, "127.0.0.1", 0, ssl=identity.server)
    use_tls(certificate(authority, folder, "caller"))
    with pytest.raises(HandshakeFailed):
        await connect(f"127.0.0.1:{middle.sockets[0].getsockname()[1]}", SECRET)
    assert not service.calls
    middle.close()
    listener.close()


async def test_renewed_files_are_used_from_the_next_connection_on(authority: trustme.CA, folder: Path) -> None:
    files = certificate(authority, folder, "a")
    use_tls(files)
    before = tls_identity()
    assert before is not None and tls_identity() is before
    certificate(authority, folder, "a")
    os.utime(files.cert, ns=(1, 1))
    after = tls_identity()
    assert after is not None and after.server.fingerprint != before.server.fingerprint


async def test_a_listener_shows_a_renewed_certificate_without_a_restart(authority: trustme.CA, folder: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    files = certificate(authority, folder, "a")
    use_tls(files)
    listener, address = await serve_tcp(Requests(lambda call: call.respond(0, b"")))
    first = await connect(address, SECRET)
    certificate(authority, folder, "a", not_after=now + datetime.timedelta(days=300))
    os.utime(files.cert, ns=(1, 1))
    second = await connect(address, SECRET)
    seen = [c.transport.get_extra_info("ssl_object").getpeercert(True) for c in (first, second)]
    assert seen[0] != seen[1]
    first.close()
    second.close()
    listener.close()


def test_the_environment_says_where_the_files_are(folder: Path) -> None:
    own = {"HEADRACE_TLS_CERT": "c", "HEADRACE_TLS_KEY": "k", "HEADRACE_TLS_CA": "a"}
    rays = {"RAY_TLS_SERVER_CERT": "rc", "RAY_TLS_SERVER_KEY": "rk", "RAY_TLS_CA_CERT": "ra"}
    assert TlsFiles.from_environment({}) is None
    assert TlsFiles.from_environment(own) == TlsFiles("c", "k", "a")
    assert TlsFiles.from_environment(TlsFiles("c", "k", "a").as_environment()) == TlsFiles("c", "k", "a")
    assert TlsFiles.from_environment(rays) is None
    assert TlsFiles.from_environment({**rays, "RAY_USE_TLS": "0"}) is None
    assert TlsFiles.from_environment({**rays, "RAY_USE_TLS": "1"}) == TlsFiles("rc", "rk", "ra")
    assert TlsFiles.from_environment({**own, **rays, "RAY_USE_TLS": "1"}) == TlsFiles("c", "k", "a")


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match="HEADRACE_TLS_KEY must be set"):
        TlsFiles.from_environment({"HEADRACE_TLS_CERT": "c", "HEADRACE_TLS_CA": "a"})
    with pytest.raises(ConfigError, match=r"RAY_TLS_CA_CERT must be set.*RAY_USE_TLS"):
        TlsFiles.from_environment({"RAY_USE_TLS": "1", "RAY_TLS_SERVER_CERT": "c", "RAY_TLS_SERVER_KEY": "k"})


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_files_that_are_wrong_are_named_to_who_listens_and_to_who_connects(
    content: str | None, folder: Path
) -> None:
    files = TlsFiles(*(str(folder / name) for name in ("x.crt", "x.key", "x.ca")))
    for path in files if content is not None else ():
        (folder / path).write_text(content or "")
    use_tls(files)
    listener = socket.create_server(("127.0.0.1", 0))
    with pytest.raises(ConfigError, match=r"x\.crt"):
        await listen(listener, SECRET, Requests())
    with pytest.raises(OSError, match=r"x\.crt"):
        await connect(f"127.0.0.1:{listener.getsockname()[1]}", SECRET)
    listener.close()


async def test_a_stranger_who_is_slow_at_tls_is_cut_off(
    authority: trustme.CA, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.wire.tls.HANDSHAKE_TIMEOUT_S", 0.2)
    use_tls(certificate(authority, folder, "a"))
    async with opened(folder) as door:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        assert await ended(reader)
        writer.close()
