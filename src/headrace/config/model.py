"""The base of all option models, and the field types that they share."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from headrace.config.problems import config_error, problems_of, shown

# Strict: `True` is no number of replicas, and "3" in a YAML file is a mistake worth telling.
PositiveInt = Annotated[int, Field(strict=True, ge=1)]
NonNegativeInt = Annotated[int, Field(strict=True, ge=0)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
PositiveNumber = Annotated[Number, Field(gt=0)]
NonNegativeNumber = Annotated[Number, Field(ge=0)]
Flag = Annotated[bool, Field(strict=True)]
Name = Annotated[str, Field(min_length=1)]
Port = Annotated[int, Field(strict=True, ge=0, le=65535)]


def _as_json(value: Any) -> Any:
    """The value as the other side of a JSON document sees it: tuples as lists, keys as strings."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"must be JSON-serializable: {error} (in {shown(value)})") from None


def _as_json_object(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a mapping of names to values, not {shown(value)}")
    return _as_json(dict(value))


def import_path_of(value: Any) -> Any:
    """`module:name` of a class or function; strings are checked for that form (or `module.name`) and kept.

    Raises:
        ValueError: other processes could not import it: a lambda, something local, or defined in the main script.
    """
    if isinstance(value, str):
        module, _, attribute = value.replace(":", ".").rpartition(".")
        if not module or not attribute:
            raise ValueError(f"must be an import path such as 'module:name', not {shown(value)}")
        return value
    module, qualname = getattr(value, "__module__", ""), getattr(value, "__qualname__", "")
    if not module or not qualname:
        raise ValueError(f"must be a class, a function or an import path such as 'module:name', not {shown(value)}")
    if "<" in qualname or module == "__main__":
        place = "in the main script" if module == "__main__" else "inside a function"
        raise ValueError(
            f"{shown(value)} is defined {place}, where other processes cannot import it; "
            "move it to the top level of a module"
        )
    return f"{module}:{qualname}"


JsonValue = Annotated[Any, AfterValidator(_as_json)]
JsonObject = Annotated[dict[str, Any], BeforeValidator(_as_json_object)]
ImportPath = Annotated[str, BeforeValidator(import_path_of)]


class ConfigModel(BaseModel):
    """Frozen options. Unknown names are mistakes; `None` means the default where `None` is no value of its own.

    Raises:
        ConfigError: by the constructor, with every mistake named. (`model_validate` raises pydantic's own error.)
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)

    title: ClassVar[str] = "wrong options"
    """How an error message begins."""

    refused: ClassVar[Mapping[str, str]] = {}
    """Names that somebody may well try and that are no options here, and what to tell them."""

    def __init__(self, /, **given: Any) -> None:
        try:
            self.__pydantic_validator__.validate_python(given, self_instance=self)
        except ValidationError as error:
            raise config_error(self._title(given), problems_of(error, type(self))) from None

    # Tells pydantic that nested models may be built without this constructor, which keeps the path of a mistake whole.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def _title(cls, given: Mapping[str, Any]) -> str:
        return cls.title

    @model_validator(mode="before")
    @classmethod
    def _none_is_the_default(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        keep = _nullable_fields(cls)
        return {name: value for name, value in data.items() if value is not None or name in keep}


@functools.cache
def _nullable_fields(model: type[ConfigModel]) -> frozenset[str]:
    return frozenset(
        name
        for name, field in model.model_fields.items()
        if field.is_required() or field.annotation is Any or type(None) in get_args(field.annotation)
    )
