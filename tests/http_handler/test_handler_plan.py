"""How a handler's signature decides what it is called with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Optional

import numpy as np
import pytest
from pydantic import BaseModel
from starlette.requests import HTTPConnection, Request

from headrace.exceptions import InvalidRequestError
from headrace.replica.http import plan_handler

if TYPE_CHECKING:
    import starlette.requests
    from elsewhere import Unknown  # type: ignore[import-not-found]


class Item(BaseModel):
    text: str


class Handlers:
    """Methods as users write them; `plan` looks at them bound."""

    def nothing(self) -> str: ...
    def untyped(self, request): ...  # type: ignore[no-untyped-def]
    def anything(self, request: Any): ...  # type: ignore[no-untyped-def]
    def untyped_optional(self, request=None): ...  # type: ignore[no-untyped-def]
    def request(self, request: Request): ...  # type: ignore[no-untyped-def]
    def connection(self, request: HTTPConnection): ...  # type: ignore[no-untyped-def]
    def optional_request(self, request: Request | None = None): ...  # type: ignore[no-untyped-def]
    def old_optional(self, request: Optional[Request]): ...  # type: ignore[no-untyped-def] # noqa: UP045
    def annotated(self, request: Annotated[Request, "x"]): ...  # type: ignore[no-untyped-def]
    def type_checking(self, request: starlette.requests.Request): ...  # type: ignore[no-untyped-def]
    def request_and_options(self, request: Request, limit: int = 3): ...  # type: ignore[no-untyped-def]
    def anything_at_all(self, *args): ...  # type: ignore[no-untyped-def]
    def model(self, item: Item): ...  # type: ignore[no-untyped-def]
    def with_default(self, count: int = 3): ...  # type: ignore[no-untyped-def]
    def two_untyped(self, a, b): ...  # type: ignore[no-untyped-def]
    def model_and_request(self, item: Item, request: Request): ...  # type: ignore[no-untyped-def]
    def keyword_request(self, *, request: Request): ...  # type: ignore[no-untyped-def]
    def unresolvable(self, item: Unknown): ...  # type: ignore[no-untyped-def]
    def array(self, x: np.ndarray): ...  # type: ignore[no-untyped-def,type-arg]


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("nothing", "no_argument"),
        ("untyped", "request"),
        ("anything", "request"),
        ("untyped_optional", "request"),
        ("request", "request"),
        ("connection", "request"),
        ("optional_request", "request"),
        ("old_optional", "request"),
        ("annotated", "request"),
        ("type_checking", "request"),
        ("request_and_options", "request"),
        ("anything_at_all", "request"),
        ("model", "typed"),
        ("with_default", "typed"),
        ("two_untyped", "typed"),
        ("model_and_request", "typed"),
        ("keyword_request", "typed"),
        ("unresolvable", "unsupported"),
        ("array", "unsupported"),
    ],
)
def test_the_signature_decides_the_kind(method: str, kind: str) -> None:
    plan = plan_handler(getattr(Handlers(), method), owner="Handlers")
    assert plan.kind == kind
    assert plan.needs_full_body == (kind == "typed")
    assert (plan.problem is not None) == (kind == "unsupported")


def batched(fn: Callable[..., Any]) -> Callable[..., Any]:
    fn.__headrace_batched__ = True  # type: ignore[attr-defined]
    return fn


def test_a_batched_list_stands_for_one_element_per_request() -> None:
    @batched
    def requests(rs: list[Request]) -> list[str]: ...
    @batched
    def bare(rs: list) -> list[str]: ...  # type: ignore[type-arg]
    @batched
    def untyped(rs): ...  # type: ignore[no-untyped-def]
    @batched
    def texts(texts: list[str]) -> list[dict[str, int]]: ...

    assert [plan_handler(fn, owner="f").kind for fn in (requests, bare, untyped, texts)] == ["request"] * 3 + ["typed"]


def test_functions_partials_and_callable_objects_are_read_too() -> None:
    def scale(item: Item, factor: float) -> float: ...

    class Model:
        def __call__(self, item: Item) -> str: ...

    @functools.wraps(scale)
    def wrapper(*args: Any, **kwargs: Any) -> Any: ...

    assert plan_handler(scale, owner="f").kind == "typed"
    assert plan_handler(functools.partial(scale, factor=2.0), owner="f").kind == "typed"
    assert plan_handler(Model(), owner="f").kind == "typed"
    assert plan_handler(wrapper, owner="f").kind == "typed"
    assert plan_handler(print, owner="f").kind == "request"


def test_what_no_request_can_carry_is_refused_with_the_reason_when_it_is_called() -> None:
    for method, reason in (("unresolvable", "'item'"), ("array", "ndarray")):
        plan = plan_handler(getattr(Handlers(), method), owner="Handlers.__call__")
        with pytest.raises(InvalidRequestError) as caught:
            plan.bind({"type": "http", "method": "POST", "headers": []}, b"1")
        assert caught.value.status_code == 501
        assert "Handlers.__call__" in caught.value.detail and reason in caught.value.detail
