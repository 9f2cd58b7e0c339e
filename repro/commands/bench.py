"""The command that measures this code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.bench import (
    AGAINST_COMMITS,
    BENCHMARKS,
    OF_MODELS,
    RECORDS,
    ROUNDS,
    UNTIMED,
    BenchOptions,
)
from repro.commands.parsing import arguments, option, switch
from repro.commands.usage import UsageError, hint
from repro.commands.values import folder_of, number, output_path
from repro.core import terminal

MAX_ROUNDS = 1000
_TITLE = b"# Performance\n"  # of the page; --write replaces no other file


@dataclass(frozen=True, kw_only=True)
class Bench:
    """benchmark this code against timm and others, and render the performance page

    Run benchmarks and record the results.
    """

    names: tuple[str, ...] = arguments("benchmarks; `all`: all of them", metavar="NAME")
    list: bool = switch("list the benchmarks and exit")
    rounds: int | None = option(f"how often both sides take turns (default: {ROUNDS})",
                                read=number("--rounds", MAX_ROUNDS), metavar="N")  # fmt: skip
    only: str = option(
        f"these models of {' or '.join(OF_MODELS)}; recorded only with --records",
        default="", metavar="MODEL,..",
    )  # fmt: skip
    against: str = option(f"of {' or '.join(AGAINST_COMMITS)}: beside the code of this commit",
                          default="", metavar="COMMIT")  # fmt: skip
    records: Path | None = option(f"the records (default: {RECORDS})", read=folder_of,
                                  metavar="DIR")  # fmt: skip
    write: Path | None = option(
        "render the page from the records; without NAME nothing is measured", read=output_path,
        metavar="FILE.md",
    )  # fmt: skip

    def execute(self) -> int:
        names = _selected(self)
        if self.list:
            rows = [(name, BENCHMARKS[name]) for name in names or BENCHMARKS]
            terminal.show(terminal.Table(("benchmark", "what it measures"), rows))
            return 0
        if self.write:
            _check_page(self.write, self.records or RECORDS, will_measure=bool(names))
        num_skipped = _measure(names, self) if names else 0
        if self.write:
            _render(self.records or RECORDS, self.write)
        elif not self.records and num_skipped < len(names):
            print("`repro bench --write docs/performance.md` renders the page from the records")
        return 2 if num_skipped and self.names != ("all",) else 0


def _measure(names: Sequence[str], args: Bench) -> int:
    """Run the benchmarks and record them; the number skipped."""
    from repro import results
    from repro.bench import run

    only = tuple(dict.fromkeys(word for word in args.only.split(",") if word))
    if args.only and not only:
        raise UsageError("--only names no model; name one, or take it out")
    _check_models(names, only)
    if args.against:
        from repro.bench.small import resolve_commit

        resolve_commit(args.against)
    results.require_writable(args.records or RECORDS, "--records DIR")
    options = BenchOptions(args.rounds or ROUNDS, only, args.against)
    return run.measure_all(names, options, args.records)


def _selected(args: Bench) -> list[str]:
    """The benchmarks to run. UsageError for an unknown one, or an option that has no effect."""
    for word in args.names:
        if word not in BENCHMARKS and word != "all":
            raise UsageError(f"unknown benchmark {word!a}; {hint(word, ['all', *BENCHMARKS])}")
    options: dict[str, object] = {
        "--rounds": args.rounds,
        "--write": args.write,
        "--records": args.records,
    }
    options |= {"--only": args.only, "--against": args.against}
    if args.list and (idle := [option for option, value in options.items() if value]):
        raise UsageError(f"--list measures and renders nothing; take {idle[0]} out")
    names = list(BENCHMARKS) if "all" in args.names else list(dict.fromkeys(args.names))
    if not names and not (args.list or args.write):
        raise UsageError("no benchmark named; `repro bench --list` lists them, and `all` runs all")
    if args.only and not {*names} & {*OF_MODELS}:
        raise UsageError(
            f"--only is for {' and '.join(OF_MODELS)}; name one of them, or take it out"
        )
    if args.against and not {*names} & {*AGAINST_COMMITS}:
        raise UsageError(
            f"--against is for {' and '.join(AGAINST_COMMITS)}; name it, or take --against out"
        )
    if args.rounds and not {*names} - {*UNTIMED}:
        raise UsageError("memory is counted, not timed; take --rounds out")
    return names


def _check_models(names: Sequence[str], only: Sequence[str]) -> None:
    """UsageError for a model that one of the benchmarks lacks."""
    from repro.bench import run

    for name in names:
        models = run.models(name)
        for model in only if models else ():
            if model not in models:
                raise UsageError(f"--only: {name} has no model {model!a}; {hint(model, models)}")


def _check_page(file: Path, folder: Path, *, will_measure: bool) -> None:
    """Check, before anything is measured, that the page can be written and its records read.

    Raises UsageError, ResultsError or BenchError.
    """
    from repro import results
    from repro.bench import record
    from repro.core import records

    if file.is_dir():
        raise UsageError(f"--write {file} is a folder; name a file")
    if file.suffix != ".md":
        raise UsageError(f"--write {file}: the page is Markdown; name a file that ends with .md")
    if file.exists() and not records.read_chunk(file, 0, len(_TITLE)) == _TITLE:
        raise UsageError(f"--write {file} is another page; name another file")
    results.require_writable(file.parent, "--write FILE.md")
    if not (record.read_all(folder) or will_measure):
        raise UsageError(f"{folder} has no records; measure with `repro bench NAME`")


def _render(folder: Path, file: Path) -> None:
    from repro import results
    from repro.bench import page, record

    results.write(file, page.render(page.TEMPLATE, record.read_all(folder)))
    print(file)
