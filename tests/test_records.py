"""What is read from disk is checked alike, whatever the process computes with."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
import typing
from collections.abc import Iterator
from typing import Any

import msgspec

import repro

# Of every bounded float in a schema, whether it may be zero or its bounds; then with denormals off.
ANSWERS = """
import json, torch
from tests.test_records import accepted, bounded_floats
for flush in (False, True):
    torch.set_flush_denormal(flush)
    print(json.dumps({name: accepted(schema) for name, schema in bounded_floats()}))
"""


def bounded_floats() -> Iterator[tuple[str, Any]]:
    """Every float with bounds of its own in the annotations of repro's classes, and its name."""
    for module in pkgutil.walk_packages(repro.__path__, "repro."):
        if module.name == "repro.__main__":
            continue
        for owner in vars(importlib.import_module(module.name)).values():
            if not isinstance(owner, type) or owner.__module__ != module.name:
                continue
            try:
                hints = typing.get_type_hints(owner, include_extras=True)
            except NameError:  # of an import for types only: msgspec could not read it either
                continue
            for field, hint in hints.items():
                for part in parts(hint):
                    yield f"{module.name}.{owner.__name__}.{field}", part


def parts(hint: Any) -> Iterator[Any]:
    """The bounded floats in a type."""
    bounded = any(isinstance(each, msgspec.Meta) for each in getattr(hint, "__metadata__", ()))
    if bounded and hint.__origin__ is float:
        yield hint
    for inside in typing.get_args(hint):
        yield from parts(inside)


def accepted(schema: Any) -> list[str]:
    """Which of zero and its bounds are accepted."""
    (meta,) = schema.__metadata__
    bounds = [each for each in (meta.gt, meta.ge, meta.lt, meta.le) if each is not None]
    return [str(value) for value in (0.0, -0.0, *bounds) if accepts(schema, value)]


def accepts(schema: Any, value: float) -> bool:
    try:
        msgspec.json.decode(json.dumps(value), type=schema)
    except msgspec.ValidationError:
        return False
    return True


def test_a_cpu_that_flushes_denormals_accepts_no_more() -> None:
    """msgspec compares `gt=0` with a denormal."""
    done = subprocess.run([sys.executable, "-c", ANSWERS], check=True, capture_output=True)
    normal, flushed = map(json.loads, done.stdout.splitlines())
    assert flushed == normal
    assert flushed["repro.data.atlas._Manifest.std"] == [str(1e-30)]
    assert len(flushed) >= 7
