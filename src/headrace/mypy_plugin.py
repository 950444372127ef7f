"""A mypy plugin that checks calls through handles: `plugins = ["headrace.mypy_plugin"]` in mypy's configuration.

With `handle: DeploymentHandle[Model]`,

- `handle.predict.remote(...)` takes the parameters of `Model.predict`, and awaiting it gives that method's result;
  so do `handle.remote(...)` with `Model.__call__`, and `.options(stream=True)` with what a generator yields;
- each argument may also be a `DeploymentResponse` of the parameter's type;
- a class under `@serve.deployment` has `.bind(...)`, with the parameters of its `__init__`, and `.options(...)`; where
  a parameter is a `DeploymentHandle[Other]`, the argument is `Other.bind(...)`.

Where the class is not known (a bare `DeploymentHandle`), nothing is checked. Of overloaded methods, only the arguments
of `__call__` are checked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

from mypy.checkmember import analyze_member_access
from mypy.erasetype import erase_typevars
from mypy.maptype import map_instance_to_supertype
from mypy.messages import format_type
from mypy.nodes import ARG_STAR, ARG_STAR2, CallExpr, Context, MemberExpr, StrExpr, TypeInfo
from mypy.plugin import (
    AttributeContext,
    CheckerPluginInterface,
    ClassDefContext,
    FunctionContext,
    MethodContext,
    MethodSigContext,
    Plugin,
)
from mypy.plugins.common import add_attribute_to_class
from mypy.type_visitor import TypeTranslator
from mypy.typeops import make_simplified_union
from mypy.types import (
    AnyType,
    CallableType,
    FunctionLike,
    Instance,
    Overloaded,
    Parameters,
    ProperType,
    Type,
    TypeAliasType,
    TypeOfAny,
    UnionType,
    UnpackType,
    get_proper_type,
)

_HANDLES = ("headrace.handle.DeploymentHandle", "headrace.handle.StreamingHandle")
_HANDLE, _STREAMING_HANDLE = _HANDLES
_METHOD = "headrace.handle.MethodHandle"
_STREAM_METHOD = "headrace.handle.StreamMethodHandle"
_RESPONSE = "headrace.response.DeploymentResponse"
_STREAM_RESPONSE = "headrace.response.DeploymentResponseGenerator"
_DECORATOR = "headrace.deployments.deployment"
_DECORATOR_WITH_OPTIONS = "headrace.deployments.DeploymentDecorator.__call__"
_DEPLOYMENT = "headrace.deployments.Deployment"
_APPLICATION = "headrace.deployments.Application"

# What a deployment has and its class has not. Its other attributes have names that classes have too (`name`).
_DEPLOYMENT_ATTRIBUTES = ("bind", "options", "func_or_class")
_GENERATORS = ("typing.AsyncGenerator", "typing.AsyncIterator", "typing.Generator", "typing.Iterator")
_METADATA = "headrace"

Parametrised = TypeVar("Parametrised", CallableType, Parameters)


class HeadracePlugin(Plugin):
    """What mypy asks for each name: does this plugin know more of it?"""

    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        owner, _, name = fullname.rpartition(".")
        return partial(_handle_attribute, name=name) if owner in _HANDLES else None

    def get_method_signature_hook(self, fullname: str) -> Callable[[MethodSigContext], FunctionLike] | None:
        owner, _, name = fullname.rpartition(".")
        return _remote_signature if name == "remote" and owner in _HANDLES else None

    def get_method_hook(self, fullname: str) -> Callable[[MethodContext], Type] | None:
        owner, _, name = fullname.rpartition(".")
        if owner in _HANDLES and name in ("options", "method"):
            return _handle_options if name == "options" else _method_of_function
        if fullname == f"{_METHOD}.remote":
            return _refuse_generator
        return _deployment_made if fullname == _DECORATOR_WITH_OPTIONS else None

    def get_function_hook(self, fullname: str) -> Callable[[FunctionContext], Type] | None:
        return _deployment_made if fullname == _DECORATOR else None

    def get_class_decorator_hook_2(self, fullname: str) -> Callable[[ClassDefContext], bool] | None:
        return _mark_deployment if fullname == _DECORATOR else None

    def get_class_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        name = fullname.rpartition(".")[2]
        return partial(_deployment_attribute, name=name) if name in _DEPLOYMENT_ATTRIBUTES else None


def plugin(version: str) -> type[Plugin]:
    """What mypy calls."""
    return HeadracePlugin


# --- handles


def _handle_attribute(ctx: AttributeContext, name: str) -> Type:
    """`handle.predict`, which only `__getattr__` knows of."""
    handle = get_proper_type(ctx.type)
    if not isinstance(handle, Instance) or handle.type.get(name) is not None:
        return ctx.default_attr_type
    return _method_handle(ctx.api, handle, name, ctx.context) or ctx.default_attr_type


def _handle_options(ctx: MethodContext) -> Type:
    """`handle.options(method_name="predict")` is `handle.predict`."""
    handle = get_proper_type(ctx.default_return_type)
    given = ctx.args[ctx.callee_arg_names.index("method_name")] if "method_name" in ctx.callee_arg_names else []
    if given and isinstance(given[0], StrExpr) and isinstance(handle, Instance):
        return _method_handle(ctx.api, handle, given[0].value, ctx.context) or ctx.default_return_type
    return ctx.default_return_type


def _method_handle(api: CheckerPluginInterface, handle: Instance, name: str, context: Context) -> Type | None:
    """The type of a method's handle; None where the class is not known."""
    methods = _methods(api, handle, name, context)
    if not methods:
        return None if methods is None else AnyType(TypeOfAny.from_error)
    streams = handle.type.fullname == _STREAMING_HANDLE
    result = make_simplified_union([(_elements if streams else _answer)(method.ret_type) for method in methods])
    parameters = _parameters(_taking_responses(api, methods[0])) if len(methods) == 1 else _any_parameters()
    return _instance(api, _STREAM_METHOD if streams else _METHOD, [parameters, result])


def _remote_signature(ctx: MethodSigContext) -> FunctionLike:
    """`handle.remote`, which calls `__call__`."""
    handle = get_proper_type(ctx.type)
    if not isinstance(handle, Instance):
        return ctx.default_signature
    methods = _methods(ctx.api, handle, "__call__", ctx.context)
    if not methods:
        return ctx.default_signature
    streams = handle.type.fullname == _STREAMING_HANDLE
    signatures: list[CallableType] = []
    for method in methods:
        result = (_elements if streams else _answer)(method.ret_type)
        if not streams and _is_generator(result):
            ctx.api.fail(_generator_needs_stream("__call__"), ctx.context)
            result = AnyType(TypeOfAny.from_error)
        response = _instance(ctx.api, _STREAM_RESPONSE if streams else _RESPONSE, [result])
        taken = _taking_responses(ctx.api, method)
        signatures.append(
            ctx.default_signature.copy_modified(
                arg_types=taken.arg_types,
                arg_kinds=taken.arg_kinds,
                arg_names=taken.arg_names,
                ret_type=response,
                is_ellipsis_args=taken.is_ellipsis_args,
            )
        )
    return signatures[0] if len(signatures) == 1 else Overloaded(signatures)


def _refuse_generator(ctx: MethodContext) -> Type:
    """`handle.generate.remote(...)` without `stream=True` fails at run time."""
    response = get_proper_type(ctx.default_return_type)
    if isinstance(response, Instance) and response.args and _is_generator(response.args[0]):
        call = ctx.context
        method = call.callee.expr if isinstance(call, CallExpr) and isinstance(call.callee, MemberExpr) else None
        name = method.name if isinstance(method, MemberExpr) else "this method"
        ctx.api.fail(_generator_needs_stream(name), ctx.context)
        return AnyType(TypeOfAny.from_error)
    return ctx.default_return_type


def _generator_needs_stream(name: str) -> str:
    return f'"{name}" is a generator: call it through .options(stream=True)'


def _methods(api: CheckerPluginInterface, handle: Instance, name: str, context: Context) -> list[CallableType] | None:
    """The method that a handle calls, one item per overload, bound to an instance.

    None where the class is not known; empty where it has no such method, which is reported.
    """
    base = next(info for info in handle.type.mro if info.fullname == _HANDLE)
    owner = get_proper_type(map_instance_to_supertype(handle, base).args[0])
    if isinstance(owner, AnyType):
        return None
    method = _member(api, owner, name, context)
    if isinstance(method, Instance) and method.type.get("__call__") is not None:
        method = _member(api, method, "__call__", context)
    if isinstance(method, FunctionLike):
        return [_without_own_variables(item) for item in method.items]
    if not isinstance(method, AnyType):
        api.fail(f'"{name}" of {format_type(owner, api.options)} is not a method', context)
        return []
    return [] if method.type_of_any == TypeOfAny.from_error else None


def _member(api: CheckerPluginInterface, owner: Type, name: str, context: Context) -> ProperType:
    """The type of `owner.name`. Reports it if there is none."""
    member = analyze_member_access(
        name,
        owner,
        context,
        is_lvalue=False,
        is_super=False,
        is_operator=False,
        original_type=owner,
        chk=cast(Any, api),
    )
    return get_proper_type(member)


def _without_own_variables(method: CallableType) -> CallableType:
    """Type variables of a generic method become Any: a handle's type has no place for them."""
    own = [variable.id for variable in method.variables]
    if not own:
        return method
    return cast(CallableType, erase_typevars(method, own)).copy_modified(variables=[])


def _answer(result: Type) -> Type:
    """What one call gives: the awaited type of an async method."""
    return _argument_of(result, "typing.Awaitable") or result


def _elements(result: Type) -> Type:
    """What iterating over a streamed call gives."""
    answer = _answer(result)
    of_stream = _argument_of(answer, "typing.AsyncIterable") or _argument_of(answer, "typing.Iterable")
    return of_stream or AnyType(TypeOfAny.special_form)


def _argument_of(typ: Type, base_name: str) -> Type | None:
    """`X`, if `typ` is a `base_name[X]`."""
    proper = get_proper_type(typ)
    if not isinstance(proper, Instance):
        return None
    base = next((info for info in proper.type.mro if info.fullname == base_name), None)
    return None if base is None else map_instance_to_supertype(proper, base).args[0]


def _is_generator(typ: Type) -> bool:
    proper = get_proper_type(typ)
    return isinstance(proper, Instance) and proper.type.fullname in _GENERATORS


# --- deployments


def _mark_deployment(ctx: ClassDefContext) -> bool:
    """mypy takes no notice of what a class decorator returns, so the class gets the attributes of a deployment."""
    info = ctx.cls.info
    info.metadata[_METADATA] = {"deployment": True}
    for name in _DEPLOYMENT_ATTRIBUTES:
        if name in info.names:
            # An attribute that only instances have (`self.options = ...`) is not to be refused on the class.
            info.names[name].implicit = False
        else:
            add_attribute_to_class(
                ctx.api, ctx.cls, name, AnyType(TypeOfAny.special_form), override_allow_incompatible=True
            )
    return True


def _deployment_attribute(ctx: AttributeContext, name: str) -> Type:
    """`Model.bind` of a class that is decorated."""
    constructor = get_proper_type(ctx.type)
    if not isinstance(constructor, FunctionLike) or not constructor.is_type_obj():
        return ctx.default_attr_type
    if _METADATA not in constructor.type_object().metadata:
        return ctx.default_attr_type
    if name == "func_or_class":
        return constructor
    items = [_without_own_variables(item) for item in constructor.items]
    parameters = _parameters(_taking_applications(ctx.api, items[0])) if len(items) == 1 else _any_parameters()
    deployment = _instance(ctx.api, _DEPLOYMENT, [parameters, items[0].ret_type])
    return _member(ctx.api, deployment, name, ctx.context)


def _deployment_made(ctx: FunctionContext | MethodContext) -> Type:
    """`serve.deployment(Model)` as a call."""
    return _with_parameters(ctx, _taking_applications)


def _method_of_function(ctx: MethodContext) -> Type:
    """`handle.method(Model.predict)`."""
    return _with_parameters(ctx, _taking_responses)


def _with_parameters(
    ctx: FunctionContext | MethodContext, change: Callable[[CheckerPluginInterface, Parameters], Parameters]
) -> Type:
    made = get_proper_type(ctx.default_return_type)
    if not isinstance(made, Instance) or not made.args:
        return ctx.default_return_type
    parameters = get_proper_type(made.args[0])
    if not isinstance(parameters, Parameters):
        return ctx.default_return_type
    return made.copy_modified(args=[change(ctx.api, parameters), *made.args[1:]])


def _instance(api: CheckerPluginInterface, fullname: str, args: list[Type]) -> Type:
    """A class of ours with its type arguments; Any in a program that does not import its module.

    `named_generic_type` finds only what can be reached by attributes from the package.
    """
    module, _, name = fullname.rpartition(".")
    file = cast(Any, api).modules.get(module)
    info = file.names[name].node if file is not None else None
    return Instance(info, args) if isinstance(info, TypeInfo) else AnyType(TypeOfAny.special_form)


# --- parameters


def _parameters(method: CallableType) -> Parameters:
    return Parameters(method.arg_types, method.arg_kinds, method.arg_names, is_ellipsis_args=method.is_ellipsis_args)


def _any_parameters() -> Parameters:
    """`...`"""
    anything = AnyType(TypeOfAny.special_form)
    return Parameters([anything, anything], [ARG_STAR, ARG_STAR2], [None, None], is_ellipsis_args=True)


def _taking_responses(api: CheckerPluginInterface, parameters: Parametrised) -> Parametrised:
    """The parameters of a method behind a handle: responses of other calls are awaited on the way."""

    def wider(typ: Type) -> Type:
        if isinstance(get_proper_type(typ), AnyType | UnpackType):
            return typ
        return UnionType.make_union([typ, _instance(api, _RESPONSE, [typ])])

    return parameters.copy_modified(arg_types=[wider(typ) for typ in parameters.arg_types])


def _taking_applications(api: CheckerPluginInterface, parameters: Parametrised) -> Parametrised:
    """The parameters of a deployment's constructor: applications become handles, at any depth."""
    translator = _HandlesOrApplications(api)
    return parameters.copy_modified(arg_types=[typ.accept(translator) for typ in parameters.arg_types])


class _HandlesOrApplications(TypeTranslator):
    """Puts `DeploymentHandle[X] | Application[X]` in place of each `DeploymentHandle[X]`."""

    def __init__(self, api: CheckerPluginInterface) -> None:
        super().__init__()
        self._api = api

    def visit_instance(self, t: Instance, /) -> Type:
        if t.type.fullname == _HANDLE:
            return UnionType([t, _instance(self._api, _APPLICATION, list(t.args))])
        return super().visit_instance(t)

    def visit_type_alias_type(self, t: TypeAliasType, /) -> Type:
        # A recursive alias would never end; no constructor takes handles in one.
        return t if t.is_recursive else get_proper_type(t).accept(self)
