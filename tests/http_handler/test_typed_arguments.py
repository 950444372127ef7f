"""The JSON body (or the query string) of a request becomes the parameters of a typed handler."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from headrace.exceptions import InvalidRequestError
from headrace.replica.http import plan_handler

JSON = b"application/json"


class Item(BaseModel):
    text: str
    top_k: int = 3


class StrictItem(BaseModel):
    model_config = ConfigDict(extra="forbid")
    text: str


@dataclasses.dataclass
class Point:
    x: int
    y: int = 2


class Why(TypedDict, total=False):
    reason: str


class Options(TypedDict):
    beams: int
    why: NotRequired[Why]


class Colour(enum.Enum):
    RED = "red"


def bind(
    fn: Callable[..., Any],
    body: Any = b"",
    *,
    method: str = "POST",
    content_type: bytes | None = JSON,
    query: bytes = b"",
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    headers = [(b"host", b"x")] + ([(b"content-type", content_type)] if content_type is not None else [])
    scope = {"type": "http", "method": method, "path": "/", "query_string": query, "headers": headers}
    return plan_handler(fn, owner="Model.__call__").bind(
        scope, body if isinstance(body, bytes) else json.dumps(body).encode()
    )


def value(fn: Callable[..., Any], body: Any = b"", **request: Any) -> Any:
    """The value of a handler's only parameter."""
    args, kwargs = bind(fn, body, **request)
    (only,) = (*args, *kwargs.values())
    return only


def refused(fn: Callable[..., Any], body: Any = b"", **request: Any) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        bind(fn, body, **request)
    return caught.value


def taking(annotation: Any, **defaults: Any) -> Callable[..., Any]:
    def handler(x: Any) -> None: ...

    handler.__annotations__["x"] = annotation
    return handler


def text_and_options(text: str, top_k: int = 3, flag: bool = False) -> None: ...


@pytest.mark.parametrize(
    ("annotation", "body", "expected"),
    [
        (Item, {"text": "a"}, Item(text="a")),
        (Point, {"x": 1}, Point(1)),
        (Options, {"beams": 2}, {"beams": 2}),
        (list[Options] | None, [{"beams": 2, "why": {}}], [{"beams": 2, "why": {}}]),
        (str, "hello", "hello"),
        (int, 3, 3),
        (list[str], ["a", "b"], ["a", "b"]),
        (dict[str, float], {"a": 1}, {"a": 1.0}),
        (dict, {"a": [1]}, {"a": [1]}),
        (int | str, "a", "a"),
        (Item | list[Item], [{"text": "a"}], [Item(text="a")]),
        (Colour, "red", Colour.RED),
        (datetime.date, "2026-01-31", datetime.date(2026, 1, 31)),
        (Literal["a", "b"], "b", "b"),
        (tuple[int, int], [1, 2], (1, 2)),
        (Annotated[int, Field(gt=0)], 5, 5),
        (str | None, None, None),
    ],
    ids=str,
)
def test_one_parameter_takes_the_whole_body(annotation: Any, body: Any, expected: Any) -> None:
    assert value(taking(annotation), body) == expected


def test_several_parameters_take_the_keys_of_an_object() -> None:
    assert bind(text_and_options, {"text": "a", "flag": True}) == ((), {"text": "a", "flag": True})


def test_parameters_without_annotation_take_any_json() -> None:
    def add(a, b): ...  # type: ignore[no-untyped-def]

    assert bind(add, {"a": 1, "b": [2]}) == ((), {"a": 1, "b": [2]})


def test_defaults_are_the_handlers_own() -> None:
    def one(count: int = 3) -> None: ...
    def fields(x: int = Field(3, gt=0), y: list[int] = Field(default_factory=list)) -> None: ...  # noqa: B008

    assert bind(one) == ((), {})
    assert bind(fields, {}) == ((), {"x": 3, "y": []})
    assert refused(fields, {"x": -1}).detail[0]["loc"] == ["body", "x"]


def test_positional_only_parameters_are_passed_by_position() -> None:
    def handler(a: int, b: int = 2, /, *, c: str) -> None: ...

    assert bind(handler, {"a": 1, "c": "x"}) == ((1, 2), {"c": "x"})


async def test_a_request_parameter_gets_the_request_with_its_body() -> None:
    def handler(item: Item, request: Request) -> None: ...

    args, kwargs = bind(handler, {"text": "a"})
    assert args == () and kwargs["item"] == Item(text="a")
    assert await kwargs["request"].json() == {"text": "a"}


def test_a_batched_handler_takes_one_element() -> None:
    def texts(texts: list[str]) -> list[dict[str, float]]: ...

    texts.__headrace_batched__ = True  # type: ignore[attr-defined]
    assert bind(texts, "hello") == (("hello",), {})
    assert bind(texts, b"hello", content_type=b"text/plain") == (("hello",), {})
    assert refused(texts, ["hello"]).status_code == 422


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize("content_type", [None, JSON, b"Application/JSON; charset=utf-8", b"application/vnd.x+json"])
def test_json_is_taken_by_every_method_with_a_body(method: str, content_type: bytes | None) -> None:
    assert value(taking(Item), {"text": "a"}, method=method, content_type=content_type) == Item(text="a")
    assert bind(text_and_options, {"text": "a"}, method=method, content_type=content_type) == ((), {"text": "a"})


# ----- refusals


def test_a_wrong_type_names_the_field_in_the_shape_of_fastapi() -> None:
    error = refused(text_and_options, {"text": "a", "top_k": "many"})
    assert error.status_code == 422
    assert error.detail == [
        {
            "loc": ["body", "top_k"],
            "msg": "Input should be a valid integer, unable to parse string as an integer",
            "type": "int_parsing",
            "input": "many",
        }
    ]


def test_an_unknown_key_gets_the_nearest_name() -> None:
    error = refused(text_and_options, {"text": "a", "topk": 1})
    assert error.status_code == 422
    assert (error.detail[0]["loc"], error.detail[0]["msg"]) == (
        ["body", "topk"],
        "unknown key 'topk'; did you mean 'top_k'?",
    )
    assert "expected 'text', 'top_k', 'flag'" in refused(text_and_options, {"text": "a", "zzz": 1}).detail[0]["msg"]


def test_a_missing_key_says_which_misspelt_one_it_may_be() -> None:
    detail = refused(taking(Item), {"txt": "a"}).detail
    assert detail[0]["loc"] == ["body", "text"]
    assert detail[0]["msg"] == "Field required (is 'txt' meant to be 'text'?)"


def test_models_that_forbid_unknown_keys_do_so() -> None:
    assert refused(taking(StrictItem), {"text": "a", "b": 1}).detail[0]["loc"] == ["body", "b"]


def test_an_object_where_the_value_itself_is_expected_is_explained() -> None:
    message = refused(taking(str), {"x": "hello"}).detail[0]["msg"]
    assert "send the value of 'x' itself" in message


@pytest.mark.parametrize("body", [b'{"text": }', b"{", b'{"text": "a"} x', b"\xff", b"'a'", b"NaN,"])
def test_malformed_json_is_a_400_with_the_position(body: bytes) -> None:
    error = refused(taking(Item), body)
    assert error.status_code == 400
    assert "line 1 column" in error.detail and "expected a JSON object for 'x'" in error.detail


def test_an_empty_body_is_a_400_that_says_what_is_expected() -> None:
    assert refused(taking(str)).status_code == 400
    assert refused(taking(str)).detail == "the body is empty; expected a JSON string for 'x'"
    assert refused(text_and_options).detail == (
        "the body is empty; expected a JSON object with the keys text, top_k (optional), flag (optional)"
    )


def test_another_content_type_is_a_415_that_says_what_to_send() -> None:
    error = refused(taking(Item), b"text=a", content_type=b"application/x-www-form-urlencoded")
    assert error.status_code == 415
    assert "application/json" in error.detail
    assert refused(text_and_options, b"a", content_type=b"text/plain").status_code == 415
    assert refused(taking(int), b"3", content_type=b"text/plain").status_code == 415


def test_plain_text_is_the_value_of_a_text_parameter() -> None:
    assert value(taking(str), b"gr\xc3\xbc\xc3\x9f", content_type=b"text/plain") == "grüß"
    assert value(taking(str), b"gr\xfc\xdf", content_type=b'text/plain; charset="latin-1"') == "grüß"
    assert value(taking(str), b"", content_type=b"text/plain") == ""
    assert value(taking(str | None), b'"x"', content_type=b"text/plain") == '"x"'
    assert refused(taking(str), b"\xff", content_type=b"text/plain").status_code == 400
    assert refused(taking(str), b"x", content_type=b"text/plain; charset=klingon").status_code == 400
    short = taking(Annotated[str, Field(max_length=2)])
    assert refused(short, b"long", content_type=b"text/plain").status_code == 422


def test_binary_is_the_value_of_a_bytes_parameter() -> None:
    assert value(taking(bytes), b"\x00\xff", content_type=b"application/octet-stream") == b"\x00\xff"
    assert refused(taking(str), b"\x00", content_type=b"application/octet-stream").status_code == 415


def test_a_long_input_is_not_echoed() -> None:
    error = refused(taking(list[int]), ["x" * 10_000] * 1000)
    assert len(json.dumps(error.detail)) < 100_000
    assert len(error.detail) <= 50


# ----- query strings


def test_a_get_takes_scalars_from_the_query_string() -> None:
    assert bind(text_and_options, method="GET", query=b"text=hello%20you&top_k=4&flag=true") == (
        (),
        {"text": "hello you", "top_k": 4, "flag": True},
    )
    assert value(taking(str), method="GET", query=b"x=a%26b") == "a&b"
    assert value(taking(Colour), method="HEAD", query=b"x=red") == Colour.RED


def test_wrong_query_values_name_the_key() -> None:
    assert refused(text_and_options, method="GET", query=b"text=a&top_k=x").detail[0]["loc"] == ["query", "top_k"]
    unknown = refused(text_and_options, method="GET", query=b"text=a&topk=1").detail[0]
    assert (unknown["loc"], unknown["msg"]) == (["query", "topk"], "unknown key 'topk'; did you mean 'top_k'?")


def test_a_get_of_what_needs_a_body_is_a_405_with_allow() -> None:
    error = refused(taking(Item), method="GET")
    assert error.status_code == 405
    assert error.headers == {"allow": "POST, PUT, PATCH"}  # type: ignore[attr-defined]
    assert "'x'" in error.detail
    assert refused(text_and_options, method="DELETE").headers == {  # type: ignore[attr-defined]
        "allow": "POST, PUT, PATCH, GET, HEAD"
    }


def test_a_get_leaves_parameters_with_defaults_alone() -> None:
    def handler(text: str, items: list[Item] | None = None) -> None: ...

    assert bind(handler, method="GET", query=b"text=a") == ((), {"text": "a"})


# ----- properties

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_no_body_does_more_than_be_refused(body: bytes) -> None:
    for handler in (text_and_options, taking(Item), taking(list[int])):
        try:
            bind(handler, body)
        except InvalidRequestError as error:
            assert error.status_code in (400, 422)
            json.dumps(error.detail, default=str)


@given(st.binary())
def test_no_query_string_does_more_than_be_refused(query: bytes) -> None:
    try:
        bind(text_and_options, method="GET", query=query)
    except InvalidRequestError as error:
        assert error.status_code == 422


@given(st.text(), st.integers(), st.booleans())
def test_what_fits_arrives_as_it_was_sent(text: str, top_k: int, flag: bool) -> None:
    sent = {"text": text, "top_k": top_k, "flag": flag}
    assert bind(text_and_options, sent) == ((), sent)
