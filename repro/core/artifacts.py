"""The files of a result besides `result.json`: their names, contents and checks."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from repro.core import measures
from repro.core.records import Damaged, decode, open_file, require
from repro.core.run import METRICS, PREDICTIONS, RUN_KINDS, Run

WEIGHTS, SAMPLES = "weights.safetensors", "samples/"
PREVIEWS = ("samples.png", "interpolation.png", f"{SAMPLES}*.png")

MAX_BYTES = 2**30  # of a file other than the weights

Line = dict[str, int | float | None]  # of METRICS


def checked_files() -> tuple[str, ...]:
    """The files whose content is checked, since tables and figures use them."""
    own = (name for kind in RUN_KINDS.values() for name in kind.file_checks)
    return tuple(dict.fromkeys((METRICS, PREDICTIONS, *own)))


def digest(data: bytes) -> str:
    """The SHA-256 of a file's content, as a result stores it."""
    return hashlib.sha256(data).hexdigest()


def digest_of(path: Path) -> str:
    """The SHA-256 of a file of any size. Raises OSError, or Damaged if it is not regular."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(folder: Path, exclude: Container[str] = ()) -> dict[str, str]:
    """The digests of a result's files in a folder, by name, except for those in `exclude`."""
    patterns = (*checked_files(), *PREVIEWS, WEIGHTS)
    paths = [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
    named = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: digest_of(path) for name, path in named.items() if name not in exclude}


def is_optional(name: str) -> bool:
    """Whether a result is complete without the file, which is not in git."""
    return name == WEIGHTS or name.startswith(SAMPLES)


def verify(name: str, data: bytes, run: Run, result: Mapping[str, Any]) -> None:
    """Raise Damaged if a file of the run is malformed or contradicts the result."""
    if name == METRICS:
        lines = parse_lines(data, steps=True)
        if result["status"] == "done":
            _require_evaluations(lines, run, result["metrics"])
    elif name in run.file_checks:
        run.file_checks[name](data, result["metrics"])


def parse_lines(data: bytes, *, steps: bool = False) -> list[Line]:
    """The lines of METRICS. Raises Damaged if one is malformed or, with `steps`, out of order."""
    lines = []
    for number, text in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            lines.append(check_line(decode(text, Line)))
        except Damaged as error:
            raise Damaged(f"line {number}: {error}") from error
    require(not data or data.endswith(b"\n"), f"line {len(lines) + 1} is truncated")
    if steps:
        values = [line.get("step") for line in lines]
        integers = [value for value in values if isinstance(value, int)]
        in_order = len(integers) == len(values) and integers == sorted(set(integers))
        require(in_order, "steps do not increase")
    return lines


def _require_evaluations(lines: Iterable[Line], run: Run, metrics: Mapping[str, Any]) -> None:
    """Raise Damaged if an evaluation is missing, or if the last one differs from the result."""
    by_step = {line.get("step"): line for line in lines}
    step = 0
    for step in run.evaluations:
        require(step in by_step, f"no line for step {step}")
        for name in run.metrics:
            require(by_step[step].get(name) is not None, f"no {name!r} in the line of step {step}")
    for name, value in by_step[step].items() if step else ():
        is_equal = name not in metrics or metrics[name] == value
        require(is_equal, f"{name!r} at the last step differs from the result")


def check_line(line: Line) -> Line:
    """A line of METRICS. Raises Damaged if a number in it is invalid."""
    values = {name: value for name, value in line.items() if value is not None}
    require(not (wrong := measures.wrong(values)), wrong)
    return line
