"""Commands that set two runs side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from repro.commands import launching
from repro.commands.launching import LaunchOptions
from repro.commands.parsing import argument, option, switch
from repro.commands.selection import stored_run
from repro.commands.shared import WithResults
from repro.commands.usage import DIFFERS, UsageError
from repro.commands.values import folder_of, output_folder
from repro.core import records, terminal

if TYPE_CHECKING:
    from repro.comparison import Comparison, Field, Repetition

_RERUN = Path("build", "rerun")


@dataclass(frozen=True, kw_only=True)
class Compare(WithResults):
    """two runs side by side: specs, environments, metrics, curves, and predictions paired by image

    Set two finished runs side by side. Predictions on the same test images are paired: how many
    images only one run has right, with an exact test of their equality.
    """

    first: str = argument("the id of a run, or a prefix of it")
    second: str = argument("another run")
    other: Path | None = option("the results folder of the second run (default: the same)",
                                read=folder_of, metavar="DIR")  # fmt: skip
    json: bool = switch("for programs")

    def execute(self) -> int:
        from repro.comparison import compare

        others = self.other or self.results
        comparison = compare(
            (self.results, stored_run(self.first, self.results)),
            (others, stored_run(self.second, others)),
        )
        if self.json:
            print(records.encode(asdict(comparison), indent=1))
        else:
            terminal.show(*_parts(comparison))
        return 0


@dataclass(frozen=True, kw_only=True)
class Rerun(WithResults, LaunchOptions):
    """train a finished run again beside it, and say whether it is the same

    Train a finished run again, into another folder, with the runs that it starts from. Then say
    whether the result is equal to the byte, within the spread of its seeds, or outside it, and what
    differs in the environment. Ends with status 3 if it is outside.
    """

    run: str = argument("the id of a run, or a prefix of it")
    into: Path = option(f"the results folder of the repetition (default: {_RERUN})",
                        default=_RERUN, read=output_folder, metavar="DIR")  # fmt: skip
    json: bool = switch("for programs")

    def execute(self) -> int:
        from repro.comparison import compare, judge_repetition, seeds_of
        from repro.core import plan

        if self.only or self.budget is not None:
            raise UsageError("--only and --budget choose among runs; rerun has one")
        if self.into.resolve() == self.results.resolve():
            raise UsageError("--into names the folder of the run itself; name another")
        settings = self.resolve("local")
        root, run = self.results, stored_run(self.run, self.results)
        compare((root, run), (root, run))  # it is finished and sound
        request = plan.Request(dict.fromkeys(plan.lineage(run), "paper"))
        outcome = launching.launch(request, self.into, settings)
        if self.dry_run or outcome.status:
            return outcome.status
        comparison = compare((root, run), (self.into, run))
        metric = run.metrics[0]
        verdict = judge_repetition(comparison, metric, seeds_of(root, run, metric))
        if self.json:
            print(records.encode({"verdict": verdict, **asdict(comparison)}, indent=1))
        else:
            terminal.show(*_verdict_parts(comparison, verdict, metric))
        return DIFFERS if verdict == "outside" else 0


def _verdict_parts(
    comparison: Comparison, verdict: Repetition, metric: str
) -> Iterator[terminal.Part]:
    words: dict[Repetition, str] = {
        "equal": "equal to the byte: every metric, every line of the curve, every file",
        "within": f"not equal; {metric} is within the 95 % prediction interval of its seeds",
        "outside": f"not equal; {metric} is outside the 95 % prediction interval of its seeds",
        "undecided": f"not equal; fewer than three seeds, so nothing says how far {metric} may be",
    }
    yield f"{comparison.first}: {words[verdict]}"
    if verdict != "equal":
        yield from _fields(
            "metrics", [each for each in comparison.metrics if each.first != each.second]
        )
        yield f"curves: {comparison.curve}"
        yield from _fields("files", comparison.files)
    yield from _fields("environment", comparison.environment)
    if not comparison.environment:
        yield "environment: the same"


def _parts(comparison: Comparison) -> Iterator[terminal.Part]:
    yield f"first:  {comparison.first}"
    yield f"second: {comparison.second}"
    yield from _fields("spec", comparison.spec) if comparison.spec else iter(["spec: the same"])
    yield from _fields("environment", comparison.environment)
    yield from _fields("metrics", _with_intervals(comparison.metrics))
    yield f"curves: {comparison.curve}"
    for each in comparison.paired:
        yield (
            f"predictions, {each.metric}: of {each.images:,} images "
            f"both have {each.both:,} right, only the first {each.only_first:,}, "
            f"only the second {each.only_second:,}; "
            f"exact McNemar test p = {each.p:.2g}"
        )
    if comparison.unpaired:
        yield f"predictions: not paired, as {comparison.unpaired}"


def _with_intervals(metrics: Sequence[Field]) -> list[Field]:
    """The metrics, each with its interval in brackets instead of as two further metrics."""
    by_name = {each.name: each for each in metrics}
    ends = {f"{name}_{end}" for name in by_name for end in ("low", "high")}
    return [
        _with_interval(each, by_name.get(f"{each.name}_low"), by_name.get(f"{each.name}_high"))
        for each in metrics
        if each.name not in ends
    ]


def _with_interval(metric: Field, low: Field | None, high: Field | None) -> Field:
    if low is None or high is None:
        return metric
    first = _interval(metric.first, low.first, high.first)
    return replace(metric, first=first, second=_interval(metric.second, low.second, high.second))


def _interval(value: object, low: object, high: object) -> object:
    return (
        value if None in (value, low, high) else f"{_shown(value)} [{_shown(low)}, {_shown(high)}]"
    )


def _fields(title: str, fields: Sequence[Field]) -> Iterator[terminal.Part]:
    if fields:
        rows = [(each.name, _shown(each.first), _shown(each.second)) for each in fields]
        yield f"{title}:"
        yield terminal.Table(("", "first", "second"), rows, indent=2)


def _shown(value: object) -> str:
    if value is None:
        return "–"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text[:16] if len(text) == 64 else text  # a digest
