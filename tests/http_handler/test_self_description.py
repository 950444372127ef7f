"""A typed handler describes itself: OpenAPI and a page for people."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field

from headrace.replica.http import EncodedResponse, HandlerPlan, plan_handler


class Language(BaseModel):
    code: str = Field("en", description="ISO 639-1")


class Document(BaseModel):
    text: str = Field(description="What to <analyze> & sum up")
    language: Language = Language()
    parent: Document | None = None


class Verdict(BaseModel):
    label: str
    score: float


class Model:
    async def document(self, document: Document) -> Verdict:
        """Judges a document.

        Takes <b>any</b> text.
        """
        raise AssertionError("never called")

    async def named(self, text: str, top_k: Annotated[int, Field(ge=1)] = 3) -> list[Verdict]: ...  # type: ignore[empty-body]
    async def stream(self, text: str) -> AsyncIterator[str]: ...  # type: ignore[empty-body]
    async def array(self, text: str) -> np.ndarray: ...  # type: ignore[empty-body,type-arg]
    async def plain(self, request): ...  # type: ignore[no-untyped-def]


def plan(method: str) -> HandlerPlan:
    return plan_handler(getattr(Model(), method), owner="Model")


def asked(plan: HandlerPlan, path: str, method: str = "GET", root_path: str = "/judge") -> EncodedResponse | None:
    return plan.description({"type": "http", "method": method, "path": path, "root_path": root_path})


def test_the_document_has_schemas_for_body_answer_and_errors() -> None:
    document = plan("document").openapi("/judge")
    operation = document["paths"]["/judge"]["post"]
    assert document["openapi"].startswith("3.1")
    assert operation["summary"] == "Judges a document."
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    assert body["$ref"].startswith("#/components/schemas/Document")
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert set(answer["properties"]) == {"label", "score"}
    assert "422" in operation["responses"]
    assert set(document["components"]["schemas"]) >= {"Document", "Language", "ValidationError"}
    assert "get" not in document["paths"]["/judge"]


def test_every_reference_leads_somewhere() -> None:
    for method in ("document", "named", "stream", "array"):
        document = plan(method).openapi("/judge")
        text = json.dumps(document)
        for part in text.split('"$ref": "#/components/schemas/')[1:]:
            assert part.partition('"')[0] in document["components"]["schemas"]


def test_named_parameters_are_keys_with_defaults_and_query_parameters() -> None:
    operations = plan("named").openapi()["paths"]["/"]
    schema = operations["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["text"]
    assert schema["properties"]["top_k"]["default"] == 3
    assert [(p["name"], p["required"]) for p in operations["get"]["parameters"]] == [("text", True), ("top_k", False)]


def test_answers_that_are_no_json_schema_are_described_as_what_they_are() -> None:
    def content(method: str) -> Any:
        return plan(method).openapi()["paths"]["/"]["post"]["responses"]["200"]["content"]

    assert "text/plain" in content("stream")
    assert content("array") == {"application/json": {"schema": {}}}


def test_the_replica_answers_for_the_handler_below_the_route_prefix() -> None:
    typed = plan("document")
    openapi = asked(typed, "/judge/openapi.json")
    assert openapi is not None and json.loads(bytes(openapi.body)) == typed.openapi("/judge")
    docs = asked(typed, "/judge/docs", "HEAD")
    assert docs is not None and dict(docs.headers)[b"content-type"] == b"text/html; charset=utf-8"
    assert asked(typed, "/docs", root_path="") is not None
    for path, method in (("/judge", "GET"), ("/judge/docs", "POST"), ("/judge/docs/x", "GET"), ("/docs", "GET")):
        assert asked(typed, path, method, root_path="/judge") is None or path == "/docs"


def test_handlers_that_take_a_request_do_not_describe_themselves() -> None:
    assert asked(plan("plain"), "/judge/docs") is None
    assert plan("plain").openapi() == {} and plan("plain").docs_html() == ""


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.text: dict[str, str] = {}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open = dict(attributes).get("id") or tag
        self.loaded += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text[self._open] = self.text.get(self._open, "") + data


def test_the_page_loads_nothing_and_escapes_what_users_wrote() -> None:
    text = plan("document").docs_html("/judge")
    page = Page(text)
    assert page.loaded == ["/judge/openapi.json"]
    assert "b" not in page.tags and "analyze" not in page.tags
    assert "Takes &lt;b&gt;any&lt;/b&gt; text." in text


def test_the_pages_example_is_a_body_that_the_handler_takes() -> None:
    for method in ("document", "named", "stream"):
        typed = plan(method)
        page = Page(typed.docs_html("/judge"))
        body = page.text["body"].encode()
        scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
        typed.bind(scope, body)
        assert "curl http://localhost:8000/judge " in page.text["curl"]
