"""The command line: `repro ITEM...` reproduces items of the paper; verbs look, prepare and check.

Exit status: 0 well; 1 a run failed; 2 wrong usage or data; 130 interrupted, and resumable.
Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from repro import __version__, experiments
from repro.spec import SCALES, Experiment

USAGE = """\
repro {version}: the paper NesT, reproduced as a program

usage: repro ITEM... [--launch local] [--scale paper|proxy|smoke] [--only METHOD] [--seeds N]
       repro VERB [...]

Without --launch, ITEM is drawn from what results/ has; with it, what is missing is trained first.

items  {items}
verbs
{verbs}

`repro VERB --help` and `repro ITEM --help` tell the options.
Exit status: 0 well; 1 a run failed; 2 wrong usage or data; 130 interrupted, and resumable.
"""


class UsageError(Exception):
    """Wrong usage: one line, exit status 2."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        print("\nrepro: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `repro status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if not _is_users(error):
            raise
        print(f"repro: {error}", file=sys.stderr)
        return 2


def _is_users(error: Exception) -> bool:
    """Whether the error is one that a user can cause and its one line explains."""
    from repro.results import ResultsError
    from repro.spec import SpecError

    return isinstance(error, UsageError | ResultsError | SpecError)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_usage(), end="")
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0
    if words[0] in VERBS:
        return VERBS[words[0]](words[1:])
    return reproduce(words)


def _usage() -> str:
    verbs = "\n".join(
        f"  {name:8} {(verb.__doc__ or '').splitlines()[0]}" for name, verb in VERBS.items()
    )
    items = ", ".join(experiments.names())
    return USAGE.format(version=__version__, items=items, verbs=verbs)


# --- options -------------------------------------------------------------------------------------


def _parser(command: str, about: str | None) -> Any:
    """A jsonargparse parser whose errors are one line with the nearest option.

    Its help is argparse's: jsonargparse's would add types and defaults, which our texts tell.
    """
    from argparse import HelpFormatter

    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):  # type: ignore[misc]
        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            raise UsageError(f"{_one_line(message, _flags(self))} (repro {command} --help)")

    return Parser(prog=f"repro {command}", description=about, formatter_class=HelpFormatter)


def _flags(parser: Any) -> list[str]:
    return [flag for action in parser._actions for flag in action.option_strings]


def _one_line(message: str, flags: Iterable[str]) -> str:
    line = " ".join(message.split())
    for word in line.replace("=", " ").replace(":", " ").split():
        if word.startswith("--") and (near := difflib.get_close_matches(word, flags, 1)):
            return line if near[0] == word else f"{line}; did you mean {near[0]}?"
    return line


def _hint(word: str, known: Iterable[str]) -> str:
    """The nearest of what is known, capitals aside, or all of it."""
    spelled = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), spelled, 1, cutoff=0.5)
    return f"did you mean {spelled[near[0]]}?" if near else f"there are {', '.join(known)}"


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _add_places(parser: Any) -> None:
    data, place = os.environ.get("REPRO_DATA"), os.environ.get("REPRO_RESULTS", "results")
    parser.add_argument("--data", type=_path, default=_path(data) if data else Path("data"),
                        metavar="DIR", help="datasets (REPRO_DATA; default: data)")  # fmt: skip
    parser.add_argument("--results", type=_path, default=_path(place), metavar="DIR",
                        help="results (REPRO_RESULTS; default: results)")  # fmt: skip


def _add_selection(parser: Any) -> None:
    parser.add_argument("--scale", choices=SCALES, default="paper", help="default: paper")
    parser.add_argument("--only", action="append", default=[], metavar="METHOD",
                        help="a method, NesT for its family, or a pattern; may be repeated; "
                        "'showcase' is one method of every family")  # fmt: skip
    _add_seeds(parser)


def _add_seeds(parser: Any) -> None:
    from jsonargparse.typing import PositiveInt

    parser.add_argument("--seeds", type=PositiveInt, default=3, metavar="N", help="default: 3")


def _experiment(name: str) -> Experiment:
    try:
        return experiments.get(name)
    except KeyError:
        hint = _hint(name, [*experiments.names(), *VERBS])
        raise UsageError(f"unknown item {name!r}; {hint}") from None


def _cells(experiment: Experiment, only: Sequence[str]) -> Any:
    from repro import plan

    wanted = [row for o in only for row in (experiment.showcase if o == "showcase" else (o,))]
    try:
        return plan.select(experiment, wanted)
    except KeyError as error:
        pattern = str(error.args[0])
        hint = _hint(pattern, experiment.rows)
        raise UsageError(f"{experiment.name} has no method {pattern!r}; {hint}") from None


# --- reproduce -----------------------------------------------------------------------------------


def reproduce(words: Sequence[str]) -> int:
    """Train what is missing, if asked to, then draw the items."""
    from jsonargparse.typing import NonNegativeFloat, PositiveInt

    items, rest = _split_items(words)
    _require_item(items, rest, "reproduce")
    chosen = [_experiment(name) for name in items]
    parser = _parser(
        " ".join(items) or "ITEM", "Draw items of the paper, training first what is missing."
    )
    parser.add_argument(
        "--launch",
        choices=("none", "local"),
        default="none",
        help="where to train what is missing; none: only draw (the default)",
    )
    _add_selection(parser)
    _add_places(parser)
    parser.add_argument("--out", type=_path, default=Path(), metavar="DIR",
                        help="where tables/ is written (default: here)")  # fmt: skip
    parser.add_argument(
        "--jobs", type=PositiveInt, metavar="N", help="runs at a time (default: one a core)"
    )
    parser.add_argument(
        "--micro-batch",
        type=PositiveInt,
        metavar="N",
        help="images on a device at once; the result is that of the whole batch",
    )
    parser.add_argument("--checkpoint-seconds", type=NonNegativeFloat, default=60.0, metavar="S",
                        help="lose at most this much work to a kill (default: 60)")  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be trained and drawn"
    )
    given = parser.parse_args(rest)

    from repro import plan

    cells = [cell for experiment in chosen for cell in _cells(experiment, given.only)]
    runs = plan.runs(cells, given.scale, given.seeds)
    well = True
    if given.launch == "local":
        planned = plan.plan(given.results, runs)
        _refuse_trouble(planned)
        to_do = [p.run for p in planned if p.to_do]
        if given.dry_run:
            _print_plan([p for p in planned if p.to_do])
        elif to_do:
            well = _launch(to_do, given)
    for experiment in chosen:
        _draw(experiment, given)
    return 0 if well else 1


def _split_items(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The leading words are items; options follow."""
    first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    return list(dict.fromkeys(words[:first])), list(words[first:])


def _require_item(items: Sequence[str], rest: Sequence[str], verb: str) -> None:
    if not items and not {"-h", "--help"} & set(rest):
        before = f" before {rest[0]}" if rest else ""
        raise UsageError(f"{verb} which item? Name it{before}: {', '.join(experiments.names())}")


def _refuse_trouble(planned: Iterable[Any]) -> None:
    """Runs under a known id with another spec, or with damaged files, are not touched."""
    for item in planned:
        if item.state in ("stale", "damaged"):
            raise UsageError(item.note)


def _launch(runs: Sequence[Any], given: Any) -> bool:
    """Train here, showing progress; whether every run has a result now."""
    from repro.launch import local
    from repro.launch.job import How
    from repro.launch.progress import Progress

    how = How(given.data.absolute(), given.checkpoint_seconds, given.micro_batch)
    jobs = min(given.jobs or local.default_jobs(), len(runs))
    progress = Progress(len(runs), jobs)
    return local.launch(runs, given.results, how, jobs, progress.tell)


def _draw(experiment: Experiment, given: Any) -> None:
    """Draw one item into tables/ and onto the screen."""
    from repro.render import tables
    from repro.results import write

    frame, warnings = tables.tidy(experiment, given.scale, given.results, given.seeds)
    for warning in warnings:
        print(f"repro: warning: {warning}", file=sys.stderr)
    folder = given.out / "tables" / ("" if given.scale == "paper" else given.scale)
    drawn = {
        "md": tables.markdown(experiment, frame, given.scale),
        "tex": tables.latex(experiment, frame, given.scale),
        "csv": tables.csv(frame),
    }
    print(drawn["md"])
    paths = [folder / f"{experiment.name}.{ending}" for ending in drawn]
    if given.dry_run:
        print("would write " + " ".join(map(str, paths)))
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}; choose --out DIR") from error
    for path, content in zip(paths, drawn.values(), strict=True):
        write(path, content)
        print(path)


# --- verbs ---------------------------------------------------------------------------------------


def list_(words: Sequence[str]) -> int:
    """what there is: items and their runs"""
    parser = _parser("list", "What there is to reproduce.")
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args(list(words))
    found = [experiments.get(name) for name in experiments.names()]
    if given.json:
        rows = [{"name": e.name, "place": e.place, "title": e.title, "rows": e.rows} for e in found]
        print(json.dumps(rows, indent=1))
        return 0
    for experiment in found:
        print(f"{experiment.name:10} {experiment.place}. {experiment.title}")
        print(f"{'':10} {', '.join(experiment.rows)}")
    return 0


def plan_(words: Sequence[str]) -> int:
    """which runs an item needs, and what there is of each"""
    items, rest = _split_items(words)
    _require_item(items, rest, "plan")
    parser = _parser("plan ITEM...", "Which runs the items need, and what there is of each.")
    _add_selection(parser)
    _add_places(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args(rest)

    from repro import plan

    cells = [cell for name in items for cell in _cells(_experiment(name), given.only)]
    _print_plan(plan.plan(given.results, plan.runs(cells, given.scale, given.seeds)), given.json)
    return 0


def status(words: Sequence[str]) -> int:
    """what is done, running and missing, of every item"""
    items, rest = _split_items(words)
    parser = _parser("status [ITEM...]", "What is done, running and missing.")
    _add_seeds(parser)
    _add_places(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args(rest)

    from repro import plan

    rows: list[dict[str, Any]] = []
    for experiment in [_experiment(name) for name in items or experiments.names()]:
        for scale in SCALES:
            planned = plan.plan(given.results, plan.runs(experiment.cells, scale, given.seeds))
            states = [p.state for p in planned]
            counts = {state: states.count(state) for state in dict.fromkeys(states)}
            running = [_running(p) for p in planned if p.state == "running"]
            notes = [p.note for p in planned if p.note]
            rows.append({"item": experiment.name, "scale": scale, "runs": counts,
                         "running": running, "notes": notes})  # fmt: skip
    if given.json:
        print(json.dumps(rows, indent=1))
        return 0
    for row in rows:
        runs = ", ".join(f"{n} {state}" for state, n in row["runs"].items())
        print(f"{row['item']:10} {row['scale']:6} {runs}")
        for line in [*row["running"], *row["notes"]]:
            print(f"{'':17} {line}")
    return 0


def _print_plan(planned: Sequence[Any], as_json: bool = False) -> None:
    if as_json:
        rows = [{"run": p.run.id, "state": p.state, "note": p.note} for p in planned]
        print(json.dumps(rows, indent=1))
        return
    for p in planned:
        note = _running(p) if p.state == "running" else p.note
        print(f"{p.state:9} {p.run.id}" + (f"  {note}" if note else ""))
    states = [p.state for p in planned]
    counts = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
    print(f"{len(planned)} runs" + (f": {counts}" if counts else ""))


def _running(planned: Any) -> str:
    facts = planned.lease or {}
    done = f"step {facts['step']} of {facts['steps']}" if "step" in facts else "starting"
    return f"{planned.run.id}: {done}, process {facts.get('pid')} on {facts.get('host')}"


def prepare(words: Sequence[str]) -> int:
    """fetch and check a dataset, or say which file to put where"""
    parser = _parser(
        "prepare DATASET", "Fetch and check a dataset, or say which file to put where."
    )
    parser.add_argument("dataset", help="a dataset, such as cifar10")
    _add_places(parser)
    given = parser.parse_args(list(words))

    from repro.launch import data

    for line in data.prepare(given.dataset, given.data):
        print(line)
    return 0


def doctor(words: Sequence[str]) -> int:
    """check this machine: packages, device, folders, datasets"""
    parser = _parser("doctor", "Check this machine: packages, device, folders, datasets.")
    _add_places(parser)
    given = parser.parse_args(list(words))

    from repro.launch import data

    well = True
    for mark, line in data.examine(given.data, given.results):
        print(f"{mark:4} {line}")
        well = well and mark != "MISS"
    return 0 if well else 2


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "list": list_,
    "plan": plan_,
    "status": status,
    "prepare": prepare,
    "doctor": doctor,
}
