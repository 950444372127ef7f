"""Lines of the access log, made of what the request path has noted: many at a time, and so at little cost each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from headrace.observe.log_files import LoggedProcess
from headrace.observe.log_format import encoded, fields_of, word

Lines = Callable[[Sequence[Any], float], str]
"""What turns requests that are done into lines. Its second argument, added to a time of theirs, gives that since the
epoch."""


class HttpAccess(NamedTuple):
    """An HTTP request that is done. Times are of `time.monotonic()`; `client` is host and port.

    The path is that of the request line, without the query, where clients put what nobody shall read.
    """

    ended: float
    took_s: float
    method: str
    raw_path: bytes
    route: str
    application: str
    status: int
    request_id: str
    client: Sequence[Any] | None


class CallAccess(NamedTuple):
    """A call through a handle that is done, with its header. `failure`: name of an exception; None for none."""

    ended: float
    took_s: float
    header: bytes
    route: str
    failure: str | None
    request_id: str


def http_lines(process: LoggedProcess, as_json: bool, with_client: bool) -> Lines:
    """Lines of `HttpAccess`. `with_client`: with the address of the client."""
    form = _form(
        process,
        as_json,
        "%s %s %d %.1fms",
        '"method":"%s","path":"%s","status":%d,"latency_ms":%.3f,"application":"%s"',
    )

    names = _Names()

    def lines(batch: Sequence[HttpAccess], offset: float) -> str:
        joined = b"".join([done[3] for done in batch]).decode("latin-1") + "".join([done[7] for done in batch])
        clean = _is_clean(joined)
        made = []
        second, head, next_ms = 0, "", -1.0
        for ended, took_s, method, raw_path, route, application, status, request_id, client in batch:
            at = ended + offset
            if not next_ms - 0.001 <= at < next_ms:  # many are of one millisecond
                second, head, next_ms = _clock(at, second, head)
            path = raw_path.decode("latin-1")
            if not clean:
                path, request_id = _harmless(path), _harmless(request_id)
            shown = f"{client[0]}:{client[1]} {method}" if with_client and client else method
            route = names[route]
            ms = took_s * 1000
            if as_json:
                app = names[application]
                made.append(form % (head, request_id, route, shown, path, status, ms, method, path, status, ms, app))
            else:
                made.append(form % (head, request_id or "-", route, shown, path, status, ms))
        return "".join(made)

    return lines


def call_lines(process: LoggedProcess, as_json: bool, method_of: Callable[[bytes], str]) -> Lines:
    """Lines of `CallAccess`. `method_of`: finds the name of the method in a header."""
    form = _form(process, as_json, "CALL %s %s %.1fms", '"method":"CALL","call":"%s","status":"%s","latency_ms":%.3f')

    names = _Names()

    def lines(batch: Sequence[CallAccess], offset: float) -> str:
        clean = _is_clean("".join([done[5] for done in batch]))
        made = []
        second, head, next_ms = 0, "", -1.0
        for ended, took_s, header, route, failure, request_id in batch:
            at = ended + offset
            if not next_ms - 0.001 <= at < next_ms:
                second, head, next_ms = _clock(at, second, head)
            if not clean:
                request_id = _harmless(request_id)
            method = method_of(header)
            status = failure or "OK"
            route = names[route]
            ms = took_s * 1000
            if as_json:
                made.append(form % (head, request_id, route, method, status, ms, method, status, ms))
            else:
                made.append(form % (head, request_id or "-", route, method, status, ms))
        return "".join(made)

    return lines


def _form(process: LoggedProcess, as_json: bool, message: str, fields: str) -> str:
    if not as_json:
        label = word(process.label).replace("%", "%%")
        return f"%sZ INFO    {label} %s %s: {message}\n"
    own = encoded(dict(fields_of(process)))[1:-1].replace("%", "%%")
    head = '{"asctime":"%sZ","levelname":"INFO",' + own
    return f'{head},"request_id":"%s","route":"%s","message":"{message}",{fields}}}\n'


def _clock(at: float, second: int, head: str) -> tuple[int, str, float]:
    """The second of a time, the time as text, and when that is wrong. `second` and `head` are those of before."""
    if int(at) != second:
        second = int(at)
        head = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
    milliseconds = int((at - second) * 1000)
    return second, f"{head[:19]}.{milliseconds:03d}", second + (milliseconds + 1) / 1000


class _Names(dict[str, str]):
    """Names that whoever deploys has chosen, as they stand in lines. There are few."""

    def __missing__(self, name: str) -> str:
        shown = self[name] = _harmless(name) or "-"
        return shown


def _is_clean(text: str) -> bool:
    """Whether this can stand in a line of either form as it is: looked at once for a whole batch."""
    return text.isprintable() and " " not in text and '"' not in text and "\\" not in text


def _harmless(text: str) -> str:
    return "".join(c if c.isprintable() and c not in ' "\\' else "_" for c in text)
