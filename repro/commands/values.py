"""Values of options: parsing, and defaults from environment variables."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repro.commands.usage import UsageError
from repro.spec import SCALES, Scale

if TYPE_CHECKING:
    from repro.launch.slurm.cluster import Notify

MAX_GPU_HOURS = 1e9  # 114 GPUs for a thousand years
RESULTS = Path("results")  # the default results folder


def path_of(text: str | Path) -> Path:
    """A path. Raises UsageError for an impossible one, such as in an unknown user's home."""
    try:
        os.fsencode(text).decode()
        path = Path(text).expanduser()
        path.stat()
    except FileNotFoundError:
        pass
    except UnicodeError:
        raise UsageError(f"{os.fspath(text)!a} is not UTF-8; rename it") from None
    except RuntimeError:
        user = Path(text).parts[0]
        raise UsageError(f"{text}: no home folder of {user}; name another path") from None
    except ValueError:
        raise UsageError(f"{os.fspath(text)!a} cannot be a path; name another") from None
    except OSError as error:
        raise UsageError(f"{str(text)[:300]}: {error.strerror}; name another path") from None
    if not os.fspath(text):
        raise UsageError("an empty text is no path; name one, such as .")
    return path


def folder_of(text: str | Path) -> Path:
    """A path to a folder, which need not exist."""
    path = path_of(text)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, where a folder is expected; name another path")
    return path


def output_folder(text: str | Path) -> Path:
    """A path to a folder to write into, outside the folders of runs."""
    return _outside_runs(folder_of(text))


def output_path(text: str | Path) -> Path:
    """A path to write to, outside the folders of runs; not a device or a pipe."""
    path = path_of(text)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UsageError(f"{path} is not a regular file; name another path")
    return _outside_runs(path)


def _outside_runs(path: Path) -> Path:
    """The path. Raises UsageError in the folder of a run, whose files it could replace."""
    from repro.results import SPEC  # not needed by what only looks

    absolute = path.absolute()
    for folder in (absolute, *absolute.parents):
        if (folder / SPEC).is_file():
            raise UsageError(f"{path} is in the folder of the run {folder.name}; name another path")
    return path


def scales_of(words: Sequence[str]) -> list[Scale]:
    """The scales with these names, in their usual order. Raises UsageError for an unknown one."""
    for word in words:
        if word not in SCALES:
            raise UsageError(f"--scale: {', '.join(SCALES)}, not {word!a:.80}")
    return [scale for scale in SCALES if scale in words]


def number(option: str, most: int, least: int = 1) -> Callable[[str | int], int]:
    """The type of an option whose value is a whole number from `least` to `most`."""

    def read(value: str | int) -> int:  # jsonargparse calls it again with its result
        text = str(value).strip()
        if not (
            text.isascii() and text.isdigit() and len(text) < 19 and least <= int(text) <= most
        ):
            raise UsageError(f"{option}: a whole number from {least} to {most:,}, not {value!a}")
        return int(text)

    return read


def real(option: str, most: float, least: float = 0.0) -> Callable[[str | float], float]:
    """The type of an option whose value is a number from `least` to `most`."""

    def read(value: str | float) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not least <= number <= most:  # nor NaN
            raise UsageError(f"{option}: a number from {least:g} to {most:,.0f}, not {value!a}")
        return number

    return read


def recipient(value: str | Notify) -> Notify:
    """Who gets a note: a mail address, or else a command, which must exist."""
    from repro.launch.slurm.cluster import ClusterError, Notify

    if isinstance(value, Notify):  # jsonargparse calls it again with its result
        return value
    try:
        if "@" in value and "/" not in value:
            return Notify(mail=value)
        program = shutil.which(value)
        if not program:
            raise UsageError(
                f"--notify: {value!a} is neither an address nor a program; correct it, or make it "
                "executable"
            )
        return Notify(command=(str(Path(program).absolute()),))
    except ClusterError as error:
        raise UsageError(f"--notify: {error}") from None


def from_environment(variable: str, read: Callable[[str], Path], default: str = "") -> Path | None:
    """The path in a variable, or else the default; None if there is neither.

    Raises UsageError, which names the variable, for an unusable path.
    """
    if not (value := os.environ.get(variable)):
        return read(default) if default else None
    try:
        return read(value)
    except UsageError as error:
        raise UsageError(f"{variable}: {error}") from None


def data_folder() -> Path:
    """The default folder of the datasets."""
    return from_environment("REPRO_DATA", folder_of, "data") or Path()


def weights_folder() -> Path | None:
    """The default folder of released weights; None: the hub's cache, or the hub."""
    return from_environment("REPRO_WEIGHTS", folder_of)


def cluster_file() -> Path | None:
    """The default site file; None if no variable names one."""
    return from_environment("REPRO_CLUSTER", _file_of)


def _file_of(text: str | Path) -> Path:
    """A path to an existing file."""
    path = path_of(text)
    if not path.exists():
        step = f"`repro doctor --cluster {path}` writes a first one"
        raise UsageError(f"{path}: no such file; {step}")
    return path


def gpu_hours(value: str | float) -> float:
    """The number in '500gpuh'; jsonargparse calls it again with the number."""
    try:
        hours = float(str(value).lower().removesuffix("gpuh"))
    except ValueError:
        hours = 0.0
    if not 0 < hours <= MAX_GPU_HOURS:  # nor NaN
        expected = f"a number of GPU-hours above 0, at most {MAX_GPU_HOURS:,.0f}, such as 500gpuh"
        raise UsageError(f"--budget: {expected}, not {value!a}")
    return hours


def results_folder() -> Path:
    """The default results folder."""
    return from_environment("REPRO_RESULTS", folder_of, str(RESULTS)) or RESULTS
