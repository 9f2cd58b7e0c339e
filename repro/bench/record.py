"""Measurements on file: one JSON per benchmark and device, validated on reading."""

from __future__ import annotations

import datetime
import math
import re
import time
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from repro import results
from repro.bench import BENCHMARKS, BenchError
from repro.core import records
from repro.launch import code

_Text = Annotated[str, Meta(max_length=200)]
_Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._+-]*\Z", max_length=80)]
_Value = Annotated[float, Meta(ge=1e-15, le=1e15)]
_Rounds = Annotated[list[_Value], Meta(max_length=1000)]
_Amount = Annotated[float, Meta(ge=0, le=1e18)]
_NEXT_STEP = "restore it from git, or remove it"
_RATES = 1e6, 1e18  # per second, of a machine that could run this
_PEERS = ("torch", "torchvision", "timm", "submitit")  # whose versions matter


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One measurement: our values and the peer's. Less is better."""

    name: _Text
    unit: _Text  # of the values, e.g. 'ms an image'
    ours: Annotated[_Rounds, Meta(min_length=1)]  # by round
    peer: _Text = ""  # '': no peer
    theirs: _Rounds = field(default_factory=list)  # by round
    flop: _Amount = 0.0  # floating-point operations of a value, where known: 0 or at least 1
    bytes: _Amount = 0.0  # least bytes to read and write, where known: 0 or at least 1
    per_second: Annotated[float, Meta(ge=1e-9, le=1e9)] = 1e3  # units per second, for times
    precision: Literal["", "fp32", "bf16"] = ""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A benchmark's comparisons, with the device, versions, commit and date."""

    benchmark: _Word
    device: _Text  # in words
    threads: Annotated[int, Meta(ge=1, le=2**20)]
    versions: dict[_Word, _Word]
    commit: _Word  # '': outside a checkout
    changed: bool  # whether the code differed from the commit
    date: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\d\Z")]
    comparisons: Annotated[list[Comparison], Meta(min_length=1, max_length=1000)]


def make(benchmark: str, device: str, threads: int, comparisons: list[Comparison]) -> Record:
    """A record of these comparisons, as of now."""
    commit = code.identity()["commit"]
    return Record(
        benchmark=benchmark,
        device=device,
        threads=threads,
        versions={name: metadata.version(name) for name in _PEERS},
        commit=commit.removesuffix("+"),
        changed=commit.endswith("+"),
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        comparisons=comparisons,
    )


def write(folder: Path, record: Record) -> Path:
    """Store the record, replacing an older one of the same device.

    ResultsError if it cannot be written.
    """
    path = folder / f"{record.benchmark}-{_slug(record.device)}.json"
    results.require_writable(folder, "--records DIR")
    results.write(path, records.encode(asdict(record), indent=1) + "\n")
    return path


def _slug(device: str) -> str:
    """The device's name in the form for a file name.

    >>> _slug("CPU x86_64 AVX512, AMD EPYC"), _slug("NVIDIA H200")
    ('cpu-x86-64-avx512-amd-epyc', 'nvidia-h200')
    """
    return re.sub("[^a-z0-9]+", "-", device.lower()).strip("-")


def rate(each: Comparison) -> float:
    """Operations or bytes per second, in the best round of either side."""
    return (each.flop or each.bytes) * each.per_second / min(*each.ours, *each.theirs, math.inf)


def read(path: Path) -> Record:
    """The record in a file. BenchError names the file if it is damaged or cannot be read."""
    try:
        record = records.read(path, Record)
        _check(record)
        return record
    except records.Damaged as error:
        raise BenchError(f"{path} is damaged ({error}); {_NEXT_STEP}") from error
    except OSError as error:
        raise BenchError(f"{path} cannot be read ({error.strerror}); {_NEXT_STEP}") from error


def _check(record: Record) -> None:
    """Raise Damaged for what the schema cannot express."""
    records.require(record.benchmark in BENCHMARKS, f"no benchmark {record.benchmark!r}")
    try:
        datetime.date.fromisoformat(record.date)
    except ValueError:
        raise records.Damaged(f"no such date: {record.date}") from None
    for each in record.comparisons:
        name = f"{each.name!r:.80}"
        equal_rounds = len(each.theirs) == (len(each.ours) if each.peer else 0)
        records.require(equal_rounds, f"{name}: the sides have different numbers of rounds")
        for amount in (each.flop, each.bytes):
            records.require(amount == 0 or amount >= 1, f"{name}: {amount} operations or bytes")
        if record.benchmark == "machine":
            least, most = _RATES
            plausible = least <= rate(each) <= most
            records.require(plausible, f"{name}: {rate(each):.3g} a second")


def read_all(folder: Path) -> list[Record]:
    """All records of a folder, in the order of `BENCHMARKS`; none if it does not exist.

    BenchError names a folder or a file that cannot be read.
    """
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BenchError(
            f"{folder} cannot be read ({error.strerror}); name another with --records DIR"
        ) from error
    all_records = [read(path) for path in paths if path.suffix == ".json"]
    return sorted(all_records, key=lambda record: list(BENCHMARKS).index(record.benchmark))
