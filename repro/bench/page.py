"""docs/performance.md: a hand-written template with tables rendered from the records."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import repro
from repro.bench import BENCHMARKS, BenchError
from repro.bench.record import Comparison, Record, rate
from repro.core import output, records

_HEADINGS = ("what", "ours", "peer", "theirs", "ratio", "rate", "floor", "share",
             "ratio at the floor")  # fmt: skip
_NAMES = ("what", "peer", "device")  # columns of text
_SIZES = ("tiny", "small", "base")
_PLACEHOLDER = re.compile(r"^\{(\w+)\}$", re.MULTILINE)

TEMPLATE = Path(repro.__file__).resolve().parents[1] / "benchmarks/performance.md.in"

Peaks = Mapping[tuple[str, str], float]  # (device, precision or 'bytes') -> rate per second


def render(template: Path, all_records: Sequence[Record]) -> str:
    """The page: the template, with each line '{benchmark}' replaced by that benchmark's tables.

    The line '{summary}' is replaced by a summary of the benchmark `nest`.
    """
    try:
        text = records.read_bytes(template).decode()
    except (OSError, records.Damaged, UnicodeDecodeError) as error:
        raise BenchError(f"{template} cannot be read: {error}; check it out again") from error
    peaks = _peaks(all_records)

    def tables(match: re.Match[str]) -> str:
        if match[1] == "summary":
            return _summary([r for r in all_records if r.benchmark == "nest"], peaks)
        selected = [record for record in all_records if record.benchmark == match[1]]
        if match[1] not in BENCHMARKS:
            raise BenchError(
                f"{template}: no benchmark {match[1]!r}; there are {', '.join(BENCHMARKS)}"
            )
        nothing = f"Not measured yet: `repro bench {match[1]}`."
        return "\n\n".join(_table(record, peaks) for record in selected) or nothing

    return _PLACEHOLDER.sub(tables, text)


def _peaks(all_records: Sequence[Record]) -> Peaks:
    """Each device's best measured rate per second, from the benchmark `machine`."""
    best: dict[tuple[str, str], float] = {}
    for record in all_records:
        for each in record.comparisons if record.benchmark == "machine" else ():
            key = record.device, each.precision if each.flop else "bytes"
            best[key] = max(rate(each), best.get(key, 0.0))
    return best


def _table(record: Record, peaks: Peaks) -> str:
    units = {each.unit for each in record.comparisons}
    unit = next(iter(units)) if len(units) == 1 and record.benchmark != "machine" else ""
    rows = [_row(each, record, peaks, is_in_heading=bool(unit)) for each in record.comparisons]
    headings = [f"ours, {unit}" if unit and name == "ours" else name for name in _HEADINGS]
    return "\n".join(
        [output.markdown(_describe(record)), "", *_markdown(headings, rows), *_mean(record)]
    )


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table without empty columns: names to the left, numbers to the right."""
    used = [i for i in range(len(headings)) if any(row[i] for row in rows)]
    lines = [[output.markdown(line[i]) for i in used] for line in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    is_name = [headings[i] in _NAMES for i in used]
    rule = [
        "-" * w if name else "-" * (w - 1) + ":" for w, name in zip(widths, is_name, strict=True)
    ]

    def padded(line: Sequence[str]) -> str:
        cells = [cell.ljust(w) if name else cell.rjust(w)
                 for cell, w, name in zip(line, widths, is_name, strict=True)]  # fmt: skip
        return f"| {' | '.join(cells)} |"

    return [padded(line) for line in (lines[0], rule, *lines[1:])]


def _summary(nest_records: Sequence[Record], peaks: Peaks) -> str:
    """By device, kind of work and peer: the ranges over T, S and B of the ratios."""
    rows = []
    for record in nest_records:
        groups: dict[tuple[str, str], list[Comparison]] = {}
        for each in record.comparisons:
            model, _, work = each.name.partition(", ")
            if model in _SIZES:
                groups.setdefault((work, each.peer), []).append(each)
        for (work, peer), group in groups.items():
            ratios = [ratio(each.theirs, each.ours).median for each in group]
            floors = [_ratio_at_floor(each, record, peaks) for each in group]
            limits = [limit for limit in floors if limit]
            rows.append((record.device, work, peer, _range(ratios), _range(limits)))
    headings = ("device", "what", "peer", "ratio", "ratio at the floor")
    return "\n".join(_markdown(headings, rows)) if rows else "Not measured yet: `repro bench nest`."


def _range(values: Sequence[float]) -> str:
    """Format '1.28 to 1.40'; '' for no values."""
    return f"{_number(min(values))} to {_number(max(values))}" if values else ""


def _describe(record: Record) -> str:
    """The device, versions, commit and date of a record, in a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    code = f"commit {record.commit}{' with changes' if record.changed else ''}"
    threads = f"{record.threads} thread{'s' * (record.threads > 1)}"
    where = code if record.commit else "no checkout"
    return f"{record.device}, {threads}; {versions}; {where}; {record.date}."


def _row(
    each: Comparison, record: Record, peaks: Peaks, *, is_in_heading: bool = False
) -> list[str]:
    """The cells of a comparison, in the order of `_HEADINGS`, with the unit unless it is there."""
    ours = statistics.median(each.ours)
    row = [
        each.name,
        _number(ours) if is_in_heading else f"{_number(ours)} {each.unit}",
        each.peer,
        _number(statistics.median(each.theirs)) if each.peer else "",
        spread(ratio(each.theirs, each.ours)) if each.peer else "",
    ]
    if record.benchmark == "machine":
        unit = "GFLOP" if each.flop else "GB"
        return [*row, f"{_number(rate(each) / 1e9)} {unit}/s", "", "", ""]
    if not (floor := _floor(each, record, peaks)):
        return [*row, "", "", "", ""]
    at_floor = _ratio_at_floor(each, record, peaks)
    return [*row, "", _number(floor), f"{floor / ours:.0%}", _number(at_floor) if at_floor else ""]


def _floor(each: Comparison, record: Record, peaks: Peaks) -> float:
    """The least time for its operations, or for its bytes if that is more; 0: not known."""
    return max(
        work / peaks[key] * each.per_second
        if work and (key := (record.device, kind)) in peaks
        else 0.0
        for work, kind in ((each.flop, each.precision), (each.bytes, "bytes"))
    )


def _ratio_at_floor(each: Comparison, record: Record, peaks: Peaks) -> float:
    """The peer's time over the floor; 0 without a peer or a floor."""
    floor = _floor(each, record, peaks)
    return statistics.median(each.theirs) / floor if floor and each.peer else 0.0


def _mean(record: Record) -> Iterator[str]:
    """For `small`: the geometric mean of the models' ratios, with its range over the rounds."""
    if record.benchmark == "small" and all(each.peer for each in record.comparisons):
        yield from ("", f"Geometric mean: {spread(geometric_mean(record.comparisons))}.")


def geometric_mean(comparisons: Sequence[Comparison]) -> Ratio:
    """The geometric mean of the median ratios, and the extremes of each round's mean."""
    ratios = [ratio(each.theirs, each.ours) for each in comparisons]
    rounds = zip(
        *([p / o for p, o in zip(c.theirs, c.ours, strict=True)] for c in comparisons), strict=False
    )
    means = [_geometric(values) for values in rounds]
    return Ratio(_geometric([r.median for r in ratios]), min(means), max(means))


def _geometric(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def spread(ratio_range: Ratio) -> str:
    """Format '1.41 [1.38..1.45]', or '1.34' if all rounds are equal."""
    if ratio_range.least == ratio_range.most:
        return _number(ratio_range.median)
    return (
        f"{_number(ratio_range.median)} [{_number(ratio_range.least)}..{_number(ratio_range.most)}]"
    )


def _number(value: float) -> str:
    """Format with three significant digits: '0.0571', '14.6', '1,230'.

    >>> _number(0.05712), _number(14.56), _number(1234.5), _number(2e14)
    ('0.0571', '14.6', '1,230', '2e+14')
    """
    if not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.{max(0, digits)}f}"


@dataclass(frozen=True)
class Ratio:
    """The median of the per-round ratios, and their range."""

    median: float
    least: float
    most: float


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> Ratio:
    """The peer's time over ours, by round."""
    each = [peer / own for peer, own in zip(theirs, ours, strict=True)]
    return Ratio(statistics.median(each), min(each), max(each))


def format_line(each: Comparison) -> str:
    """A comparison as the terminal shows it."""
    ours = f"{_number(statistics.median(each.ours))} {each.unit}"
    comparison = (
        f"  {each.peer}: {spread(ratio(each.theirs, each.ours))} times as much" if each.peer else ""
    )
    return f"{each.name:50} {ours:>20}{comparison}"
