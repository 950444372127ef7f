"""The page's files and what a page may do: asked for over the REST API as a browser would, without one."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.controller.conftest import Instance, folder, instance, machine

from headrace.controller.rest import RestApi
from headrace.controller.rest_pages import SECURITY_HEADERS
from headrace.dashboard import STATIC

__all__ = ["folder", "instance", "machine"]

HERE = "http://localhost:8265"
SAME_ORIGIN = {"origin": HERE}
MAX_BYTES = 150_000
APPLICATIONS = "/api/serve/applications/"


def client_of(instance: Instance, token: str | None = None, base_url: str = HERE) -> httpx.AsyncClient:
    app: Any = RestApi(instance.controller, token).app
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base_url)


@pytest.fixture
async def client(instance: Instance) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(instance) as made:
        yield made


@pytest.fixture
async def guarded(instance: Instance) -> AsyncIterator[httpx.AsyncClient]:
    """Of an instance with a token, which other machines reach by a name."""
    async with client_of(instance, "t0ken", "http://gpu-box:8265") as made:
        yield made


async def addresses(client: httpx.AsyncClient) -> list[str]:
    """All that the page loads."""
    page = (await client.get("/")).text
    return re.findall(r'(?:href|src)="(/[^"]+)"', page)


async def test_the_page_and_all_its_files_are_served_with_strict_headers(client: httpx.AsyncClient) -> None:
    found = await addresses(client)
    assert len(set(found)) == len(list(STATIC.iterdir())) - 1, "all but the page itself, which names the others"
    for address in ("/", *found):
        answer = await client.get(address)
        assert answer.status_code == 200, address
        assert all(answer.headers[name] == value for name, value in SECURITY_HEADERS.items())
        kind = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}.get(address.rpartition(".")[2])
        assert answer.headers["content-type"].partition(";")[0] == (kind or "text/html")
    policy = SECURITY_HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy


async def test_modules_import_only_what_the_page_has_loaded_before(client: httpx.AsyncClient) -> None:
    named = {address.rpartition("/")[2] for address in await addresses(client)}
    for module in STATIC.glob("*.js"):
        imported = re.findall(r'from "\./([^"]+)"', module.read_text())
        assert set(imported) <= named, f"{module.name} would be waited for twice"


async def test_browsers_keep_files_and_ask_for_the_page_again(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    assert page.headers["cache-control"] == "no-cache"
    again = await client.get("/", headers={"if-none-match": f'"other", W/{page.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"]
    address = (await addresses(client))[-1]
    assert "immutable" in (await client.get(address)).headers["cache-control"]


async def test_files_travel_compressed_to_who_takes_that(client: httpx.AsyncClient) -> None:
    request = client.build_request("GET", "/", headers={"accept-encoding": "gzip"})
    answer = await client.send(request, stream=True)
    packed = b"".join([piece async for piece in answer.aiter_raw()])
    assert answer.headers["content-encoding"] == "gzip"
    plain = await client.get("/", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert gzip.decompress(packed) == plain.content


@pytest.mark.parametrize("name", ["nothing.js", "index.html", "..%2F__init__.py", "%2e%2e/rest.py"])
async def test_nothing_else_is_served(client: httpx.AsyncClient, name: str) -> None:
    folder = (await addresses(client))[0].rpartition("/")[0]
    assert (await client.get(f"{folder}/{name}")).status_code == 404
    assert (await client.get("/assets/0123/main.js")).status_code == 404


def test_the_page_is_small() -> None:
    assert sum(path.stat().st_size for path in STATIC.iterdir()) < MAX_BYTES


def test_no_data_can_become_markup_or_code() -> None:
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|setHTML"
        r"|\beval\b|new Function|srcdoc|javascript:|set(Timeout|Interval)\(\s*[\"'`]"
    )
    for path in STATIC.iterdir():
        assert not forbidden.search(path.read_text()), path.name
        # Not even the page itself has any of its own.
        assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=\"", path.read_text()), path.name


def test_no_address_of_another_host_is_named() -> None:
    for path in STATIC.iterdir():
        hosts = set(re.findall(r"https?://([\w.-]+)", path.read_text()))
        assert hosts <= {"www.w3.org"}, f"{path.name} names {hosts}"  # the name of SVG, which nobody asks for


async def test_the_page_comes_without_the_token_and_shows_nothing_without_it(guarded: httpx.AsyncClient) -> None:
    for address in ("/", *await addresses(guarded)):
        assert (await guarded.get(address)).status_code == 200
    for address in ("/api/headrace/status", "/api/headrace/dashboard", "/api/headrace/live", "/metrics"):
        assert (await guarded.get(address)).status_code == 401
    assert (await guarded.post("/api/headrace/playground/app")).status_code == 401
    assert (await guarded.post("/")).status_code == 401


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "http://evil.example"}, {"origin": "null"}])
async def test_pages_of_others_get_nothing(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    for method, path in (
        ("GET", "/"),
        ("GET", "/assets/0/main.js"),
        ("GET", "/api/headrace/status"),
        ("POST", "/api/headrace/playground/app"),
        ("POST", "/api/headrace/applications/app/rollback"),
    ):
        answer = await client.request(method, path, headers=headers)
        assert answer.status_code == 403, path


async def test_a_page_of_another_site_gets_nothing_with_a_token_either(guarded: httpx.AsyncClient) -> None:
    headers = {"origin": "http://evil.example", "authorization": "Bearer t0ken"}
    for path in ("/", "/api/headrace/status"):
        assert (await guarded.get(path, headers=headers)).status_code == 403
    assert (await guarded.post("/api/headrace/playground/app", headers=headers)).status_code == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/headrace/applications/app/rollback"),
        ("PUT", APPLICATIONS),
        ("DELETE", APPLICATIONS),
        ("DELETE", f"{APPLICATIONS}app"),
        ("POST", "/api/v1/applications/app/deployments/Model/scale"),
    ],
)
async def test_without_a_token_a_page_changes_nothing_and_a_program_does(
    client: httpx.AsyncClient, guarded: httpx.AsyncClient, method: str, path: str
) -> None:
    refused = await client.request(method, path, headers=SAME_ORIGIN, json={})
    assert refused.status_code == 403
    assert "HEADRACE_REST_TOKEN" in refused.json()["error"]
    assert (await client.request(method, path, json={})).status_code != 403
    own = {"origin": "http://gpu-box:8265", "authorization": "Bearer t0ken"}
    assert (await guarded.request(method, path, headers=own, json={})).status_code not in (401, 403)


async def test_the_page_is_told_what_it_may_offer(client: httpx.AsyncClient, guarded: httpx.AsyncClient) -> None:
    assert (await client.get("/api/headrace/dashboard", headers=SAME_ORIGIN)).json() == {"actions": False}
    headers = {"authorization": "Bearer t0ken"}
    assert (await guarded.get("/api/headrace/dashboard", headers=headers)).json() == {"actions": True}


async def test_the_playground_says_what_cannot_be_asked(client: httpx.AsyncClient) -> None:
    url = "/api/headrace/playground/nobody"
    missing = await client.post(url, headers=SAME_ORIGIN)
    assert missing.status_code == 404 and "there is no application 'nobody'" in missing.json()["error"]
    method = await client.post(url, params={"method": "TRACE"})
    assert method.status_code == 400 and method.json()["error"].startswith("method: must be one of GET, HEAD, POST")
    path = await client.post(url, params={"path": "evil.example/"})
    assert path.status_code == 400 and path.json()["error"].startswith("path: must begin with '/'")
    assert (await client.get(url)).status_code == 405
