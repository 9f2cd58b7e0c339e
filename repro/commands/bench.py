"""The command that measures this code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.bench import AGAINST_COMMITS, BENCHMARKS, OF_MODELS, UNTIMED, BenchOptions
from repro.commands.parsing import arguments, option, switch
from repro.commands.usage import UsageError, hint
from repro.commands.values import folder_of, number, path_of
from repro.core import terminal

RECORDS = Path("benchmarks/records")
ROUNDS, MAX_ROUNDS = 5, 1000


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
        f"these models of {' or '.join(OF_MODELS)}; not recorded unless --records says where",
        default="", metavar="MODEL,..",
    )  # fmt: skip
    against: str = option(f"of {' or '.join(AGAINST_COMMITS)}: beside the code of this commit",
                          default="", metavar="COMMIT")  # fmt: skip
    records: Path | None = option(f"the files (default: {RECORDS})", read=folder_of,
                                  metavar="DIR")  # fmt: skip
    write: Path | None = option(
        "render the page from the records; without NAME nothing is measured", read=path_of,
        metavar="FILE",
    )  # fmt: skip

    def execute(self) -> int:
        names = _selected(self)
        if self.list:
            rows = [(name, BENCHMARKS[name]) for name in names or BENCHMARKS]
            terminal.show(terminal.Table(("benchmark", "what it measures"), rows))
            return 0
        _check_file(self.write)
        missed = _measure(names, self) if names else 0
        if self.write:
            _draw(self.records or RECORDS, self.write)
        return 2 if missed and self.names != ("all",) else 0


def _measure(names: Sequence[str], args: Bench) -> int:
    """Measure the benchmarks and put them on file; how many could not be measured."""
    from repro import results
    from repro.bench import run

    only = tuple(word for word in args.only.split(",") if word)
    _check_models(names, only)
    folder = args.records if only else args.records or RECORDS
    if folder:
        results.require_writable(folder, "--records DIR")
    options = BenchOptions(args.rounds or ROUNDS, only, args.against)
    return run.measure_all(names, options, folder)


def _selected(args: Bench) -> list[str]:
    """The benchmarks of these names. UsageError for an unknown one, or for an option that they
    would ignore."""
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
        raise UsageError("bench what? `repro bench --list` tells the names; all is every one")
    if args.only and not {*names} & {*OF_MODELS}:
        raise UsageError(
            f"--only is for {' and '.join(OF_MODELS)}; name one of them, or take it out"
        )
    if args.against and not {*names} & {*AGAINST_COMMITS}:
        raise UsageError(
            f"--against is for {' and '.join(AGAINST_COMMITS)}; name it, or take --against out"
        )
    if args.rounds and not {*names} - {*UNTIMED}:
        raise UsageError("--rounds is for what is timed; name that, or take --rounds out")
    return names


def _check_models(names: Sequence[str], only: Sequence[str]) -> None:
    """UsageError for a model that one of the benchmarks has not."""
    from repro.bench import run

    for name in names:
        models = run.models(name)
        for model in only if models else ():
            if model not in models:
                raise UsageError(f"--only: {name} has no model {model!a}; {hint(model, models)}")


def _check_file(file: Path | None) -> None:
    """UsageError or ResultsError for a page that could not be written in the end."""
    from repro import results

    if file and file.is_dir():
        raise UsageError(f"--write {file} is a folder; name a file")
    if file:
        results.require_writable(file.parent, "--write FILE")


def _draw(folder: Path, file: Path) -> None:
    """Draw the page."""
    from repro import results
    from repro.bench import page, record

    results.write(file, page.render(page.TEMPLATE, record.read_all(folder)))
    print(file)
