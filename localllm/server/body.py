"""What the bodies of all requests are made of: known fields, and objects that are bounded."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

MOST_NESTED = 100  # levels of an object of any fields
MOST_ITEMS = 2**14  # of a list: to check a message takes 10 µs, in which nobody else is served
_MOST_COMPLAINTS = 100

T = TypeVar("T")
# Each complaint takes as long, and a body of 16 MiB may give cause for millions: one is told of.
ListOf = Annotated[list[T], Field(fail_fast=True, max_length=MOST_ITEMS)]
Ids = Annotated[list[int], Field(fail_fast=True)]  # of tokens


def _tell_of_null(schema: dict[str, Any]) -> None:
    """Let the JSON schema of a body say what `Body` does with null."""
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        null = {"type": "null"}
        if name not in required and null not in field.get("anyOf", [field]):
            told = {key: field.pop(key) for key in ("title", "default") if key in field}
            schema["properties"][name] = {"anyOf": [field, null]} | told


class Body(BaseModel):
    """A JSON object with these fields and no others; null is as good as a field left out."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=_tell_of_null)

    @model_validator(mode="wrap")
    @classmethod
    def _checked(cls, given: Any, check: ModelWrapValidatorHandler[Any]) -> Any:
        try:
            return check(cls._without_nulls(given))
        except ValidationError as error:
            count = error.error_count()
            if count <= _MOST_COMPLAINTS:
                raise
        raise PydanticCustomError("many", "{count} things are wrong with it", {"count": count})

    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if not isinstance(given, dict) or None not in given.values():
            return given
        optional = {
            field.alias or name
            for name, field in cls.model_fields.items()
            if not field.is_required()
        }
        return {
            name: value
            for name, value in given.items()
            if value is not None or name not in optional
        }


def _bounded(value: dict[str, Any]) -> dict[str, Any]:
    level: list[Any] = [value]
    for _ in range(MOST_NESTED):
        if any(isinstance(one, float) and not math.isfinite(one) for one in level):
            raise PydanticCustomError("number", "JSON has finite numbers only")
        level = [
            inner
            for one in level
            if isinstance(one, (dict, list))
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return value
    raise PydanticCustomError("nested", "nests deeper than {most} levels", {"most": MOST_NESTED})


JsonObject = Annotated[dict[str, Any], AfterValidator(_bounded)]


def _no_number(value: Any) -> Any:
    if not isinstance(value, bool):  # 0 is equal to False
        raise PydanticCustomError("bool", "Input should be false")
    return value


Off = Annotated[Literal[False], BeforeValidator(_no_number)]  # what cannot be switched on


def _free(value: dict[str, Any]) -> dict[str, Any]:
    for name in ("messages", "tools", "self", "continue_final"):
        if name in value:
            raise PydanticCustomError("taken", "{name} is no variable to set", {"name": name})
    return value


Variables = Annotated[JsonObject, AfterValidator(_free)]  # further ones of a chat template
