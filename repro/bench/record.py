"""What was measured, on file: one JSON a benchmark and kind of device, checked when it is read."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

import repro
from repro import records, results
from repro.bench import BENCHMARKS, BenchError

_Text = Annotated[str, Meta(max_length=200)]
_Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._+-]*\Z", max_length=80)]
_Value = Annotated[float, Meta(ge=1e-15, le=1e15)]
_Rounds = Annotated[list[_Value], Meta(max_length=1000)]
_PEERS = ("torch", "torchvision", "timm", "submitit")  # whose versions matter


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A thing to do, what it took here, and what it took the peer. Less is better."""

    name: _Text
    unit: _Text  # of the values, as 'ms an image'
    ours: Annotated[_Rounds, Meta(min_length=1)]  # by round
    peer: _Text = ""  # '': nobody else does it
    theirs: _Rounds = field(default_factory=list)  # by round
    flop: Annotated[float, Meta(ge=0, le=1e18)] = 0.0  # that a value is the time of, where known
    bytes: Annotated[float, Meta(ge=0, le=1e18)] = 0.0  # that it has to read and write at least
    per_second: Annotated[float, Meta(ge=1e-9, le=1e9)] = 1e3  # units in a second, of times
    precision: Literal["", "fp32", "bf16"] = ""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A benchmark's comparisons, and by what they were measured."""

    benchmark: _Word
    device: _Text  # in words
    threads: Annotated[int, Meta(ge=1, le=2**20)]
    versions: dict[_Word, _Word]
    commit: _Word  # '': outside a checkout
    changed: bool  # whether the code differed from the commit
    date: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\d\Z")]
    comparisons: Annotated[list[Comparison], Meta(min_length=1, max_length=1000)]


def make(benchmark: str, device: str, threads: int, comparisons: list[Comparison]) -> Record:
    """A record of now."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    return Record(
        benchmark=benchmark,
        device=device,
        threads=threads,
        versions={name: metadata.version(name) for name in _PEERS},
        commit=commit,
        changed=bool(commit and _git("status", "--porcelain", "--", "repro")),
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        comparisons=comparisons,
    )


def write(folder: Path, record: Record) -> Path:
    """Put it on file, over an older one of such a device. ResultsError if it cannot be written."""
    path = folder / f"{record.benchmark}-{_kind(record.device)}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"cannot make {folder}: {error.strerror}; name another") from error
    results.write(path, records.encode(asdict(record), indent=1) + "\n")
    return path


def _kind(device: str) -> str:
    """'cpu', or a GPU's name as a part of a file's.

    >>> _kind("CPU x86_64 AVX512"), _kind("NVIDIA H200")
    ('cpu', 'nvidia-h200')
    """
    return "cpu" if device.startswith("CPU") else re.sub("[^a-z0-9]+", "-", device.lower())


def read(path: Path) -> Record:
    """The record in a file. BenchError names the file where it is damaged."""
    try:
        found = records.read(path, Record)
        records.require(found.benchmark in BENCHMARKS, f"no benchmark {found.benchmark!r}")
        for each in found.comparisons:
            whole = len(each.theirs) == (len(each.ours) if each.peer else 0)
            records.require(whole, f"{each.name!r:.80}: not as many rounds of both sides")
        return found
    except (OSError, records.Damaged) as error:
        name = path.name.partition("-")[0]
        again = f"measure it again with `repro bench {name}`, or " * (name in BENCHMARKS)
        step = f"{again}remove it"
        raise BenchError(f"{path} is damaged ({error}); {step}") from error


def every(folder: Path) -> list[Record]:
    """All records of a folder, those of a benchmark together, in the order of `BENCHMARKS`."""
    found = [read(path) for path in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda record: list(BENCHMARKS).index(record.benchmark))


def _git(*words: str) -> str:
    """What git says about this checkout; nothing outside one."""
    here = Path(repro.__file__).resolve().parents[1]
    command = ["git", "-C", str(here), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
