"""How a handler is called over HTTP, decided once, when the replica starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError

from ...exceptions import InvalidRequestError
from .results import EncodedResponse
from .self_description import SelfDescription
from .signature import HandlerSignature, read_signature
from .typed_arguments import TypedArguments

HandlerKind = Literal["no_argument", "request", "typed", "unsupported"]


class HandlerPlan:
    """How to call one handler.

    Attributes:
        kind: `"no_argument"`: call it with nothing. `"request"`: call it with a Starlette `Request` as its only
            argument. `"typed"`: call it with what `bind` makes of the request. `"unsupported"`: no HTTP request can
            become its arguments; `bind` says so to each. It may still be called through a handle.
        needs_full_body: whether the whole body has to be there before the call.
        problem: for `"unsupported"`, why; None otherwise.
    """

    __slots__ = ("_arguments", "_description", "kind", "needs_full_body", "owner", "problem")

    def __init__(
        self,
        kind: HandlerKind,
        owner: str,
        arguments: TypedArguments | None = None,
        description: SelfDescription | None = None,
        problem: str | None = None,
    ) -> None:
        self.kind = kind
        self.owner = owner
        self.needs_full_body = kind == "typed"
        self.problem = problem
        self._arguments = arguments
        self._description = description

    def __repr__(self) -> str:
        return f"HandlerPlan({self.kind!r}, owner={self.owner!r})"

    def bind(self, scope: dict[str, Any], body: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments for a call of a `"typed"` handler.

        Args:
            scope: the ASGI scope of the request.
            body: its whole body.

        Raises:
            InvalidRequestError: the request does not fit; `status_code` is 400, 405, 415 or 422 (501 where no request
                ever would).
        """
        if self._arguments is None:
            raise InvalidRequestError(501, f"{self.owner} cannot be called over HTTP: {self.problem}")
        return self._arguments.bind(scope, body)

    def description(self, scope: dict[str, Any]) -> EncodedResponse | None:
        """The answer to `GET /openapi.json` and `GET /docs` below the route prefix, for `"typed"` handlers.

        Args:
            scope: an ASGI scope whose `path` begins with its `root_path`.

        Returns:
            None if the request asks for something else, or the handler does not describe itself.
        """
        if self._description is None or scope["method"] not in ("GET", "HEAD"):
            return None
        root_path: str = scope.get("root_path", "")
        return self._description.response(scope["path"].removeprefix(root_path), root_path)

    def openapi(self, root_path: str = "") -> dict[str, Any]:
        """The OpenAPI 3.1 document of a `"typed"` handler; empty for others.

        Args:
            root_path: where the deployment is mounted; the path of the operation.
        """
        return {} if self._description is None else self._description.openapi(root_path)

    def docs_html(self, root_path: str = "") -> str:
        """The page that describes a `"typed"` handler, complete in itself; empty for others."""
        return "" if self._description is None else self._description.docs_html(root_path)


def plan_handler(fn: Callable[..., Any], *, owner: str) -> HandlerPlan:
    """Decides from a handler's signature how HTTP requests become its arguments. Never raises for a user's signature.

    - Nothing to pass: `"no_argument"`.
    - One required parameter, unannotated or annotated `Request` (also as a string): `"request"`, as in Ray Serve.
    - Anything else: `"typed"`. One parameter takes the whole body, several take the keys of a JSON object.

    Args:
        fn: the bound method or function. If it carries `__headrace_batched__`, `list[T]` stands for one `T`.
        owner: what messages call it, such as `Model.__call__`.
    """
    signature = read_signature(fn)
    parameters = signature.parameters
    if not parameters:
        return HandlerPlan("request" if signature.takes_any_positional else "no_argument", owner)
    if _takes_only_the_request(signature):
        return HandlerPlan("request", owner)
    return _plan_typed(signature, owner, getattr(fn, "__doc__", None))


def _takes_only_the_request(signature: HandlerSignature) -> bool:
    parameters = signature.parameters
    if signature.takes_any_positional and all(p.keyword_only and not p.required for p in parameters):
        return True
    required = [parameter for parameter in parameters if parameter.required]
    if len(required) > 1:
        return False
    candidate = required[0] if required else parameters[0]
    fits = candidate.takes_request or (candidate.is_untyped and candidate.problem is None)
    return fits and candidate is parameters[0] and not candidate.keyword_only


def _plan_typed(signature: HandlerSignature, owner: str, doc: str | None) -> HandlerPlan:
    for parameter in signature.parameters:
        if parameter.problem is not None:
            problem = f"parameter {parameter.name!r}: {parameter.problem}"
            return HandlerPlan("unsupported", owner, problem=problem)
    try:
        arguments = TypedArguments(signature.parameters)
        description = SelfDescription(arguments, signature.returns, owner, doc)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError) as error:
        # pydantic goes on with how to change the class; a handler's author rather changes the annotation.
        reason = str(error).partition("\n")[0].partition(" Set `arbitrary_types_allowed")[0]
        return HandlerPlan(
            "unsupported",
            owner,
            problem=f"{reason} Annotate its parameters with types that JSON can carry, or take a `Request`.",
        )
    return HandlerPlan("typed", owner, arguments, description)
