"""Serialization and hashes of specs: frozen dataclasses of plain values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, ForwardRef, Literal, Union, get_args, get_origin, get_type_hints

Value = str | int | float | bool | None | tuple["Value", ...]


class SpecError(ValueError):
    """A stored spec that this code does not understand, or that differs from the current one."""


def digest(value: object) -> str:
    """8 hex digits over the class and the non-default fields, recursively.

    Adding a field with a default keeps it.
    """
    return hashlib.sha256(_dumps(canonical(value)).encode()).hexdigest()[:8]


def canonical(value: object, *, defaults: bool = False) -> Any:
    """`value` as JSON types. Without `defaults`, fields that have their default are omitted.

    Equal numbers are written alike (1.0 as 1).
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, tuple):
        return [canonical(item, defaults=defaults) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        written = {"class": kind.__name__}
        for name, default in _fields(kind):
            inner = getattr(value, name)
            if defaults or default is MISSING or inner != default:
                written[name] = canonical(inner, defaults=defaults)
        return written
    raise TypeError(f"a spec holds plain values; {value!r} is a {type(value).__name__}")


@cache
def _fields(kind: type[Any]) -> tuple[tuple[str, object], ...]:
    """The fields of a dataclass with their defaults, MISSING where there is none."""
    return tuple((field.name, field.default) for field in fields(kind))


def _dumps(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@cache
def parts(kinds: tuple[type[Any], ...]) -> Mapping[str, type[Any]]:
    """These dataclasses and those that their fields may hold, recursively, by name."""
    by_name, pending = dict[str, type[Any]](), list[Any](kinds)
    while pending:
        kind = pending.pop()
        if kind.__name__ not in by_name:
            by_name[kind.__name__] = kind
            pending += [part for hint in _hints(kind).values() for part in _dataclasses(hint)]
    return by_name


def _dataclasses(hint: Any) -> Iterator[type[Any]]:
    """The dataclasses in the type of a field."""
    if isinstance(hint, type) and is_dataclass(hint):
        yield hint
    for inner in get_args(hint):
        yield from _dataclasses(inner)


def revive(stored: object, classes: Mapping[str, type[Any]]) -> Any:
    """The value that `canonical` wrote, using these classes. Raises SpecError if invalid."""
    if isinstance(stored, list):
        return tuple(revive(item, classes) for item in stored)
    if not isinstance(stored, dict):
        return stored
    name = stored.get("class")
    kind = classes.get(name) if isinstance(name, str) else None
    if kind is None:
        raise SpecError(f"spec class {name!r:.80} is not known")
    values = {name: revive(value, classes) for name, value in stored.items() if name != "class"}
    _check_fields(kind, values)
    return kind(**values)


def _check_fields(kind: Any, values: Mapping[str, Any]) -> None:
    """Raise SpecError for an unknown, missing or invalid field of a dataclass."""
    hints = _hints(kind)
    if unknown := values.keys() - {field.name for field in fields(kind)}:
        raise SpecError(f"{kind.__name__} has no field {sorted(unknown)[0]!r:.80}")
    for field in fields(kind):
        if field.name not in values and field.default is MISSING:
            raise SpecError(f"{kind.__name__} has no {field.name!r}")
        if field.name in values and not _fits(values[field.name], hints[field.name]):
            value = f"{values[field.name]!r:.80}"
            raise SpecError(f"{kind.__name__}: {field.name} cannot be {value}")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: object, hint: Any) -> bool:
    """Whether a value has the type of a spec's field."""
    if isinstance(hint, str | ForwardRef):  # Value is made of itself
        return _fits(value, Value)
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in inner)
    if origin in (Union, UnionType):
        return any(_fits(value, choice) for choice in inner)
    if origin is tuple:
        items = value if isinstance(value, tuple) else None
        kinds = inner[:1] * len(items or ()) if inner[-1] is Ellipsis else inner
        return items is not None and len(items) == len(kinds) and all(map(_fits, items, kinds))
    if hint is float:
        return type(value) in (int, float)  # 1.0 is written as 1
    return type(value) is hint


def difference(stored: object, current: object) -> str | None:
    """The first field in which a stored spec differs from the current one: 'a: 1 stored, 2 now'.

    A field that is not stored counts as its default, since adding a field does not rename runs.
    None if there is no difference.
    """
    expected = canonical(current, defaults=True)
    if _dumps(stored) == _dumps(expected):
        return None  # nearly always: every field is stored
    return _difference("", stored, expected, _defaults(current))


def _difference(place: str, stored: object, current: object, default: object) -> str | None:
    if isinstance(stored, dict) and isinstance(current, dict):
        for name in sorted(stored.keys() | current.keys()):
            inner = default.get(name, MISSING) if isinstance(default, dict) else MISSING
            inner_difference = _difference(
                f"{place}.{name}".lstrip("."),
                stored.get(name, inner),
                current.get(name, MISSING),
                inner,
            )
            if inner_difference:
                return inner_difference
        return None
    if stored == current and isinstance(stored, bool) == isinstance(current, bool):
        return None
    shown = ["absent" if v is MISSING else f"{json.dumps(v):.80}" for v in (stored, current)]
    return f"{place}: {shown[0]} stored, {shown[1]} now"


def _defaults(value: object) -> object:
    """The defaults of a dataclass and of the dataclasses in it, structured as by `canonical`."""
    if not is_dataclass(value) or isinstance(value, type):
        return MISSING
    return {name: _default_of(getattr(value, name), default)
            for name, default in _fields(type(value))}  # fmt: skip


def _default_of(value: object, default: object) -> object:
    """The default of a field; for a dataclass, its inner defaults, even if its own is None."""
    if default is MISSING or is_dataclass(value):
        return _defaults(value)
    return canonical(default, defaults=True)
