"""API keys: who may ask, and how much. Only hashes of keys are kept."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.exceptions import ConfigError, ConfigTypeError
from headrace.llm.api.errors import ApiError, nearest

_PREFIX = "sha256:"
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_FIELDS = ("name", "key", "requests_per_minute", "tokens_per_minute")


def generate_api_key() -> str:
    """A new key, with 256 random bits."""
    return f"sk-hr-{secrets.token_urlsafe(32)}"


def hash_api_key(key: str) -> str:
    """What a config holds in place of a key: `sha256:` and 64 hexadecimal digits.

    A fast hash is right for keys of `generate_api_key`, which nobody can guess; a key that a person made up is as safe
    as it is long.
    """
    return _PREFIX + hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A client, by its key.

    Attributes:
        name: names the key in messages; two keys may not share one.
        digest: SHA-256 of the key.
        requests_per_minute: None for no limit.
        tokens_per_minute: of prompts and answers together; None for no limit.
    """

    name: str
    digest: bytes = field(repr=False)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    @property
    def limited(self) -> bool:
        """Whether it has any limit."""
        return self.requests_per_minute is not None or self.tokens_per_minute is not None


def read_api_keys(given: Sequence[Any]) -> tuple[ApiKey, ...]:
    """API keys as configs have them.

    Args:
        given: for each key its hash (`hash_api_key`), the key itself, or a dict with that as `key`, and `name`,
            `requests_per_minute` and `tokens_per_minute`, of which all may be missing. `ApiKey`s are taken as they are.

    Raises:
        ConfigError: a field is unknown, missing or out of its range, or a name or key is there twice. The message never
            holds a key.
    """
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Sequence):
        raise ConfigTypeError("api_keys: must be a list of keys")
    keys = tuple(_read(entry, f"api_keys[{i}]") for i, entry in enumerate(given))
    for what, values in (("name", [key.name for key in keys]), ("key", [key.digest for key in keys])):
        if len(set(values)) < len(values):
            raise ConfigError(f"api_keys: two entries have the same {what}")
    return keys


def _read(entry: Any, place: str) -> ApiKey:
    if isinstance(entry, ApiKey):
        return entry
    if isinstance(entry, str):
        entry = {"key": entry}
    if not isinstance(entry, Mapping):
        raise ConfigTypeError(f"{place}: must be a string or a mapping, not {type(entry).__name__}")
    for name in entry:
        if name not in _FIELDS:
            raise ConfigError(f"{place}: unknown field {name!r}; {nearest(str(name), _FIELDS)}")
    key = entry.get("key")
    if not isinstance(key, str) or not key:
        raise ConfigError(f"{place}.key: must be a key, or the hash of one ('sha256:...')")
    if key.startswith(_PREFIX) and not _HASH.fullmatch(key):
        raise ConfigError(f"{place}.key: 'sha256:' must be followed by 64 hexadecimal digits in lower case")
    digest = bytes.fromhex((key if key.startswith(_PREFIX) else hash_api_key(key)).removeprefix(_PREFIX))
    name = entry.get("name", f"key-{digest.hex()[:8]}")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{place}.name: must be a string that is not empty")
    limits = {limit: entry.get(limit) for limit in ("requests_per_minute", "tokens_per_minute")}
    for limit, value in limits.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"{place}.{limit}: must be a whole number from 1 on, not {value!r}")
    return ApiKey(name, digest, **limits)


class KeyRing:
    """Knows keys by their hashes.

    Args:
        keys: those that may ask.
    """

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._keys = {key.digest: key for key in keys}

    def identify(self, headers: Mapping[bytes, bytes]) -> ApiKey:
        """Whose request this is, by `Authorization: Bearer` or Anthropic's `x-api-key`.

        Raises:
            ApiError: 401.
        """
        given = _given_key(headers)
        if not given:
            raise _unauthorized(
                "an API key is needed: send it as 'Authorization: Bearer <key>' or 'x-api-key: <key>'",
                "missing_api_key",
            )
        digest = hashlib.sha256(given).digest()
        # Whoever sends guesses cannot choose their hashes, so the time of the look-up says nothing of a key.
        key = self._keys.get(digest)
        if key is None or not hmac.compare_digest(key.digest, digest):
            raise _unauthorized("the API key is not known here", "invalid_api_key")
        return key


def _given_key(headers: Mapping[bytes, bytes]) -> bytes:
    authorization = headers.get(b"authorization", b"")
    scheme, _, credentials = authorization.partition(b" ")
    if scheme.lower() == b"bearer":
        return credentials.strip()
    return headers.get(b"x-api-key", b"").strip()


def _unauthorized(message: str, code: str) -> ApiError:
    return ApiError(401, message, code=code, headers={"www-authenticate": "Bearer"})
