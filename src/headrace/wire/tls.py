"""Mutual TLS around the TCP connections between machines. Unix sockets never use it.

Both ends show a certificate that the authority in `ca` has signed. Hosts' names are not compared with certificates:
machines of a cluster are known by changing addresses, and who they are is proved by the secret, in a handshake that is
bound to the server's certificate (`wire.auth`).
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from headrace.exceptions import ConfigError

logger = logging.getLogger("headrace.wire")

HANDSHAKE_TIMEOUT_S = 5.0

_VARIABLES = {"cert": "HEADRACE_TLS_CERT", "key": "HEADRACE_TLS_KEY", "ca": "HEADRACE_TLS_CA"}
_RAY_VARIABLES = {"cert": "RAY_TLS_SERVER_CERT", "key": "RAY_TLS_SERVER_KEY", "ca": "RAY_TLS_CA_CERT"}


class TlsFiles(NamedTuple):
    """Paths of PEM files: this machine's certificate (with those between it and the authority) and its key, and the
    authority's certificate, which peers' certificates must be signed by."""

    cert: str
    key: str
    ca: str

    @staticmethod
    def from_environment(environ: Mapping[str, str] = os.environ) -> TlsFiles | None:
        """What `HEADRACE_TLS_CERT`, `HEADRACE_TLS_KEY` and `HEADRACE_TLS_CA` name, or else what Ray's own TLS uses
        where `RAY_USE_TLS` is 1; None where neither is set.

        Raises:
            ConfigError: some are set and others are not.
        """
        if any(environ.get(name) for name in _VARIABLES.values()):
            variables, why = _VARIABLES, "TLS needs all three"
        elif environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            variables, why = _RAY_VARIABLES, "RAY_USE_TLS is set"
        else:
            return None
        missing = [name for name in variables.values() if not environ.get(name)]
        if missing:
            raise ConfigError(f"{' and '.join(missing)} must be set to the path of a PEM file: {why}")
        return TlsFiles(**{field: environ[name] for field, name in variables.items()})

    def as_environment(self) -> dict[str, str]:
        """The environment variables that tell another process of the same machine to use these files."""
        return {name: getattr(self, field) for field, name in _VARIABLES.items()}


class TlsIdentity:
    """A machine's certificate, loaded: what its connections are secured with.

    Attributes:
        client, server: contexts for the two ends. A listener that has `server` shows a renewed certificate as soon as
            the files have changed.
    """

    def __init__(self, files: TlsFiles) -> None:
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.server = _ServerContext(ssl.PROTOCOL_TLS_SERVER)
        for context in (self.client, self.server):
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.check_hostname = False
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(files.ca)
            context.load_cert_chain(files.cert, files.key)
        # Connections live for hours: a ticket that makes the next one cheaper is never used.
        self.server.num_tickets = 0
        self.server.fingerprint = _fingerprint(_first_certificate(Path(files.cert).read_text()))
        self.server.sni_callback = functools.partial(_renew, files)


class _ServerContext(ssl.SSLContext):
    fingerprint: bytes


def _renew(files: TlsFiles, handshake: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
    """Called at the beginning of each handshake, whether or not the client names a server."""
    try:
        handshake.context = _load(files).server
    except (OSError, ValueError) as error:  # half written, perhaps
        logger.warning("the certificate in %s cannot be used, and the one before is: %s", files.cert, error)


def _first_certificate(pem: str) -> bytes:
    end = "-----END CERTIFICATE-----"
    start = pem.index("-----BEGIN CERTIFICATE-----")
    return ssl.PEM_cert_to_DER_cert(pem[start : pem.index(end, start) + len(end)])


def _fingerprint(certificate: bytes) -> bytes:
    return hashlib.sha256(certificate).digest()


def fingerprint_of_server(transport: asyncio.BaseTransport) -> bytes:
    """Of the certificate that the server of this connection has shown; empty without TLS. Either end may ask."""
    secured: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    if secured is None:
        return b""
    if isinstance(secured.context, _ServerContext):
        return secured.context.fingerprint
    certificate = secured.getpeercert(binary_form=True)
    return _fingerprint(certificate) if certificate else b""


def hint_of_refusal(transport: asyncio.BaseTransport) -> str:
    """What to add where the other end has hung up during a handshake: it verifies our certificate last, and says
    nothing of it."""
    if transport.get_extra_info("ssl_object") is None:
        return ""
    return "; it may have refused this machine's certificate"


_chosen: TlsFiles | None = None
_loaded: dict[TlsFiles, tuple[tuple[int, ...], TlsIdentity]] = {}


def use_tls(files: TlsFiles | None) -> None:
    """Secure this process's TCP connections with these files; None: as the environment says.

    Those that exist stay as they are. The files are read again when they have changed.
    """
    global _chosen
    _chosen = files


def tls_identity() -> TlsIdentity | None:
    """What this process secures a new TCP connection with; None where it uses no TLS.

    Raises:
        ConfigError: a file is not there, or is not what it should be.
    """
    files = _chosen or TlsFiles.from_environment()
    if files is None:
        return None
    try:
        return _load(files)
    except (OSError, ValueError) as error:
        names = f"{files.cert}, {files.key} and {files.ca}"
        raise ConfigError(f"TLS between machines cannot use {names}: {error}") from None


def _load(files: TlsFiles) -> TlsIdentity:
    """Raises OSError (an `ssl.SSLError` is one) or ValueError where a file is not what it should be."""
    written = tuple(os.stat(path).st_mtime_ns for path in files)
    known = _loaded.get(files)
    if known is None or known[0] != written:
        known = _loaded[files] = (written, TlsIdentity(files))
    return known[1]
