"""Mutual proof that both ends of a connection hold the cluster's secret, before any frame is parsed.

Challenge and response with HMAC-SHA256 (RFC 2104): the secret never crosses the wire, a recorded handshake is of no
use later (both nonces are fresh), and the two proofs differ in a label, so that one cannot be reflected as the other.

    server to client: MAGIC, server nonce
    client to server: MAGIC, client nonce, HMAC(secret, "client" + server nonce + client nonce)
    server to client: HMAC(secret, "server" + server nonce + client nonce)
"""

from __future__ import annotations

import hashlib
import hmac
import os

MAGIC = b"HDRACE1\n"
NONCE_BYTES = 32
PROOF_BYTES = 32

SERVER_HELLO_BYTES = len(MAGIC) + NONCE_BYTES
CLIENT_HELLO_BYTES = len(MAGIC) + NONCE_BYTES + PROOF_BYTES


def nonce() -> bytes:
    return os.urandom(NONCE_BYTES)


def proof(secret: bytes, role: bytes, server_nonce: bytes, client_nonce: bytes) -> bytes:
    """The `role`'s (b"client" or b"server") proof for these nonces: 32 bytes."""
    return hmac.new(secret, role + server_nonce + client_nonce, hashlib.sha256).digest()


def verify(secret: bytes, role: bytes, server_nonce: bytes, client_nonce: bytes, given: bytes) -> bool:
    return hmac.compare_digest(proof(secret, role, server_nonce, client_nonce), given)
