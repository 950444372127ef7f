"""Mutual proof that both ends of a connection hold the cluster's secret, before any frame is parsed.

Challenge and response with HMAC-SHA256 (RFC 2104): the secret never crosses the wire, a recorded handshake is of no
use later (both nonces are fresh), and the two proofs differ in a label, so that one cannot be reflected as the other.

    server to client: MAGIC, server nonce
    client to server: MAGIC, client nonce, HMAC(secret, "client" + server nonce + client nonce)
    server to client: HMAC(secret, "server" + server nonce + client nonce)

A client that cannot map the server's shared memory says REMOTE_MAGIC, and proves with "remote" in place of "client". A
gate (`wire.gate`) has labels and a MAGIC of its own. Where TLS is around the connection, both proofs cover the server's
certificate (the idea of RFC 5929's `tls-server-end-point`), so that nobody in the middle can hand a handshake on.
"""

from __future__ import annotations

import hashlib
import hmac
import os

MAGIC = b"HDRACE1\n"
REMOTE_MAGIC = b"HDRACE1R"
GATE_MAGIC = b"HDGATE1\n"
NONCE_BYTES = 32
PROOF_BYTES = 32

SERVER_HELLO_BYTES = len(MAGIC) + NONCE_BYTES
CLIENT_HELLO_BYTES = len(MAGIC) + NONCE_BYTES + PROOF_BYTES


def nonce() -> bytes:
    return os.urandom(NONCE_BYTES)


def proof(secret: bytes, role: bytes, server_nonce: bytes, client_nonce: bytes, bound: bytes = b"") -> bytes:
    """The `role`'s (b"client", b"server", …) proof for these nonces and whatever else it is `bound` to: 32 bytes."""
    return hmac.new(secret, role + server_nonce + client_nonce + bound, hashlib.sha256).digest()


def verify(
    secret: bytes, role: bytes, server_nonce: bytes, client_nonce: bytes, given: bytes, bound: bytes = b""
) -> bool:
    return hmac.compare_digest(proof(secret, role, server_nonce, client_nonce, bound), given)
