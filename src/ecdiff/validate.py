"""JSON from outside -> our frozen dataclasses, with one clear line when it does not fit."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ecdiff.errors import InputError

T = TypeVar("T")

FORBID_UNKNOWN = ConfigDict(extra="forbid")  # a dataclass takes it as __pydantic_config__


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def parse(kind: type[T], data: Any, what: str) -> T:
    """Build a `kind` from JSON text (str or bytes) or from plain dicts and lists.

    Raises InputError naming the field and what was wrong with it.
    """
    try:
        adapter = _adapter(cast(Any, kind))
        read = adapter.validate_json if isinstance(data, (str, bytes)) else adapter.validate_python
        value: T = read(data)
        return value
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        where = f"{what}: {place}" if place else what
        got = "" if first["type"] == "json_invalid" else f" (got {first['input']!r:.80})"
        raise InputError(f"{where}: {first['msg']}{got}") from error


def to_plain(value: object) -> Any:
    """The JSON-ready form of a dataclass, which `parse` reads back."""
    kind: Any = type(value)
    return _adapter(kind).dump_python(value, mode="json")
