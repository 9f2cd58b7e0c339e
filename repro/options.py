"""What commands have in common: their parsers, their one-line errors, how they name things."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from repro import experiments
from repro.spec import SCALES, Experiment, Scale


class UsageError(Exception):
    """Wrong usage: one line, exit status 2."""


def parser_of(command: str, about: str | None) -> Any:
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


def hint(word: str, known: Iterable[str]) -> str:
    """The nearest of what is known, capitals aside, or all of it."""
    spelled = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), spelled, 1, cutoff=0.5)
    some = ", ".join([*spelled.values()][:20]) + ", ..." * (len(spelled) > 20)
    return f"did you mean {spelled[near[0]]}?" if near else f"there are {some}"


def path_of(text: str) -> Path:
    return Path(text).expanduser()


def add_places(parser: Any) -> None:
    data, place = os.environ.get("REPRO_DATA"), os.environ.get("REPRO_RESULTS", "results")
    parser.add_argument("--data", type=path_of, default=path_of(data) if data else Path("data"),
                        metavar="DIR", help="datasets (REPRO_DATA; default: data)")  # fmt: skip
    parser.add_argument("--results", type=path_of, default=path_of(place), metavar="DIR",
                        help="results (REPRO_RESULTS; default: results)")  # fmt: skip


def add_selection(parser: Any) -> None:
    parser.add_argument("--scale", choices=SCALES, default="paper", help="default: paper")
    parser.add_argument("--only", action="append", default=[], metavar="METHOD",
                        help="a method, NesT for its family, or a pattern; may be repeated; "
                        "'showcase' is one method of every family")  # fmt: skip
    add_seeds(parser)


def add_seeds(parser: Any) -> None:
    from jsonargparse.typing import PositiveInt

    parser.add_argument(
        "--seeds", type=PositiveInt, metavar="N", help="default: 3; 1 at smoke scale"
    )


def seeds_of(given: int | None, scale: Scale) -> int:
    """How many seeds a scale has unless it was said."""
    return given or (1 if scale == "smoke" else 3)


def experiment_of(name: str) -> Experiment:
    try:
        return experiments.get(name)
    except KeyError:
        from repro.verbs import VERBS

        near = hint(name, [*experiments.names(), *VERBS])
        raise UsageError(f"unknown item {name!r}; {near}") from None


def cells_of(experiment: Experiment, only: Sequence[str]) -> Any:
    from repro import plan

    wanted = [row for o in only for row in (experiment.showcase if o == "showcase" else (o,))]
    try:
        return plan.select(experiment, wanted)
    except KeyError as error:
        pattern = str(error.args[0])
        near = hint(pattern, experiment.rows)
        raise UsageError(f"{experiment.name} has no method {pattern!r}; {near}") from None


def split_items(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The leading words are items; options follow."""
    first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    return list(dict.fromkeys(words[:first])), list(words[first:])


def require_item(items: Sequence[str], rest: Sequence[str], verb: str) -> None:
    if not items and not {"-h", "--help"} & set(rest):
        before = f" before {rest[0]}" if rest else ""
        raise UsageError(f"{verb} which item? Name it{before}: {', '.join(experiments.names())}")
