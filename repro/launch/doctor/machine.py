"""`repro doctor`: packages, device, disk space and datasets of this machine, within two seconds.

It imports no torch and reads no images. Versions come from the packages' metadata, GPUs from the
driver; `repro prepare` verifies a dataset.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from repro.core import records
from repro.data import catalogue
from repro.launch import data
from repro.launch.doctor import gpu_query

ReportLine = tuple[str, str]  # 'ok', '--' (a note) or 'MISS' (runs would fail), and the text

_PACKAGES = ("torch", "torchvision", "timm", "pandas", "jsonargparse")
_DRIVER_SECONDS = 10.0  # for the driver to answer
_LITTLE_BYTES, _FEW_FILES = 10 * 10**9, 10_000  # free: below that, a note
_LEAST_BYTES, _LEAST_FILES = 10**9, 500  # below that, checkpoints and logs fail


def examine(data_folder: Path, results: Path) -> Iterator[ReportLine]:
    """A line for each package, device, folder and dataset, as soon as it is known."""
    with _start_gpu_query() as gpu_process:  # it works while the others are looked at
        is_supported = sys.version_info >= (3, 11)
        yield (
            "ok" if is_supported else "MISS",
            f"Python {platform.python_version()} (3.11 or newer)",
        )
        for name in _PACKAGES:
            try:
                yield "ok", f"{name} {metadata.version(name)}"
            except metadata.PackageNotFoundError:
                yield "MISS", f"{name} is not installed: pip install -c constraints.txt -e ."
        yield from _devices(_answer(gpu_process), _cuda_of_torch())
    yield "ok", f"cores: {len(os.sched_getaffinity(0))}"
    yield _results_folder(results)
    yield _data_folder(data_folder)
    yield from _datasets(data_folder)


# --- devices -------------------------------------------------------------------------------------


@dataclass
class Driver:
    """The answer of `gpu_query`."""

    cuda: int = 0  # 1000 × major + 10 × minor; 0: unknown
    gpus: Sequence[tuple[str, int, int]] = ()  # name, compute capability
    error: str = ""


def _start_gpu_query() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", gpu_query.__file__],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _answer(process: subprocess.Popen[bytes]) -> Driver:
    try:
        output, _ = process.communicate(timeout=_DRIVER_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return Driver(error=f"no answer within {_DRIVER_SECONDS:.0f} s")
    try:
        return records.decode(output, Driver)
    except records.Damaged:
        return Driver(error=f"the query ended with exit status {process.returncode}")


def _cuda_of_torch() -> str:
    """The CUDA version that torch was built for, such as '12.8'; '' for none."""
    spec = find_spec("torch")  # finds the package without importing it
    if not (spec and spec.origin):
        return ""
    try:
        text = (Path(spec.origin).parent / "version.py").read_text()
    except (OSError, UnicodeDecodeError):
        return ""
    match = re.search(r"^cuda\b.*?= ['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return match[1] if match else ""


def _devices(driver: Driver, cuda: str) -> Iterator[ReportLine]:
    """The devices that torch, built for a version of CUDA, would train on."""
    cpu = f"device: CPU {platform.machine()}, fp32"
    if driver.error:
        yield "MISS", f"the NVIDIA driver fails ({driver.error}); try nvidia-smi, or ask its admin"
    if not driver.gpus:
        yield "ok", cpu
    elif not cuda:
        yield "--", f"{cpu}; GPUs: {_names(driver)}, but torch is built without CUDA; reinstall it"
    elif driver.cuda and int(cuda.partition(".")[0]) > driver.cuda // 1000:
        known = f"{driver.cuda // 1000}.{driver.cuda % 1000 // 10}"
        yield (
            "MISS",
            f"GPUs: {_names(driver)}; their driver knows CUDA up to {known}, torch needs {cuda}; "
            "update the driver, or install torch for an older CUDA",
        )
    else:
        has_bf16 = all(major >= 8 for _, major, _ in driver.gpus)
        precision = "bf16 autocast" if has_bf16 else "fp32 where it lacks bf16"
        yield "ok", f"device: {_names(driver)}, {precision}"


def _names(driver: Driver) -> str:
    counts = Counter(name for name, _, _ in driver.gpus)
    return ", ".join(f"{count} × {name}" for name, count in counts.items())


# --- folders -------------------------------------------------------------------------------------


def _results_folder(folder: Path) -> ReportLine:
    """Whether results can be written, and the space for them and for checkpoints."""
    label = f"results and checkpoints in {folder}"
    try:
        nearest = _nearest(folder)
        with tempfile.TemporaryFile(dir=nearest):
            pass
        mark, space = _space(nearest)
    except OSError as error:
        return "MISS", f"{label}: not writable ({error.strerror}); choose --results DIR"
    advice = "; `repro clean` lists what can go" if mark != "ok" else ""
    return mark, f"{label}: writable, {space}{advice}"


def _data_folder(folder: Path) -> ReportLine:
    """Whether datasets can be read, and the space for further ones."""
    label = f"data in {folder}"
    try:
        nearest = _nearest(folder)
        if is_there := nearest == folder.absolute():
            next(nearest.iterdir(), None)
        mark, space = _space(nearest)
    except OSError as error:
        return "MISS", f"{label}: not readable ({error.strerror}); choose --data DIR"
    state = "readable" if is_there else "does not exist yet"
    # The datasets may be complete.
    return "ok" if mark == "ok" else "--", f"{label}: {state}, {space}"


def _nearest(folder: Path) -> Path:
    """The folder, or else the nearest above it that exists; OSError if one cannot be used."""
    absolute = folder.absolute()
    for path in (absolute, *absolute.parents):
        try:
            path.stat()
        except FileNotFoundError:
            if path.is_symlink():
                raise
            continue
        return path
    return Path("/")


def _space(folder: Path) -> ReportLine:
    """The free space of a folder's file system, for this user, as a mark and a text."""
    at = os.statvfs(folder)
    free, total = at.f_bavail * at.f_frsize, at.f_blocks * at.f_frsize
    text = f"{free / 1e9:,.1f} of {total / 1e9:,.1f} GB free"
    marks = [_mark(free, _LITTLE_BYTES, _LEAST_BYTES)]
    if at.f_files:  # some file systems have no fixed number
        marks.append(_mark(at.f_favail, _FEW_FILES, _LEAST_FILES))
        if marks[-1] != "ok":
            text += f", and inodes for {at.f_favail:,} more files only"
    return next((mark for mark in ("MISS", "--") if mark in marks), "ok"), text


def _mark(free: int, little: int, least: int) -> str:
    return "ok" if free >= little else "--" if free >= least else "MISS"


# --- datasets ------------------------------------------------------------------------------------


def _datasets(folder: Path) -> Iterator[ReportLine]:
    """Which datasets are there. Those made from embedded images when needed are left out."""
    yield "ok", f"datasets of the package: {', '.join(catalogue.EMBEDDED)}"
    for name in catalogue.DATASETS:
        if name in catalogue.EMBEDDED:
            continue
        command = f"`repro prepare {name} --data {folder}`"
        if problem := _unreadable(name, folder):
            yield "--", f"dataset {name}: {problem}"
        elif not catalogue.is_present(name, folder):
            yield "--", f"dataset {name}: not in {folder}; run {command}"
        elif data.is_checked(name, folder):
            yield "ok", f"dataset {name}, verified"
        else:
            yield "ok", f"dataset {name} is there; {command} verifies it"


def _unreadable(name: str, folder: Path) -> str:
    """Why a folder of a dataset cannot be read; '' if it can, or does not exist."""
    for part in catalogue.FOLDERS.get(name, ()):
        try:
            next((folder / part).iterdir(), None)
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"{folder / part} cannot be read: {error.strerror}"
    return ""
