"""What commands have in common: their parsers, their one-line errors, how they name things."""

from __future__ import annotations

import difflib
import os
import textwrap
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
    """The nearest of what is known, capitals aside, or what of it fits into a line or two."""
    spelled = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), spelled, 1, cutoff=0.5)
    some = textwrap.shorten(
        ", ".join(spelled.values()), 300, placeholder=" ...", break_on_hyphens=False
    )
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
    parser.add_argument(
        "--images",
        choices=("original", "256px"),
        default="original",
        help="256px: ImageNet from squares made once by `repro prepare imagenet-256px`; faster to "
        "read, other crops, so other runs",
    )
    add_seeds(parser)


def add_seeds(parser: Any) -> None:
    from jsonargparse.typing import PositiveInt

    parser.add_argument(
        "--seeds", type=PositiveInt, metavar="N", help="default: 3; 1 at smoke scale"
    )


def add_budget(parser: Any) -> None:
    parser.add_argument("--budget", type=_gpu_hours, metavar="500gpuh",
                        help="only the runs that decide most claims for so much")  # fmt: skip


def _gpu_hours(value: str | float) -> float:
    """The number in '500gpuh'; jsonargparse hands it over a second time, as a number."""
    try:
        hours = float(str(value).lower().removesuffix("gpuh"))
    except ValueError:
        hours = -1.0
    if not 0 < hours < float("inf"):
        raise UsageError(f"a budget is a number of GPU-hours, such as 500gpuh, not {value!r}")
    return hours


def seeds_of(given: int | None, scale: Scale) -> int:
    """How many seeds a scale has unless it was said."""
    return given or (1 if scale == "smoke" else 3)


def chosen(items: Sequence[str], given: Any) -> list[Experiment]:
    """The items of these names; with --images 256px, their versions on squares."""
    found = [experiments.get(name) for name in items]
    if given.images == "original":
        return found
    if given.scale == "proxy":
        raise UsageError("--images 256px is for ImageNet; the proxy scale has embedded images")
    from repro.experiments.scales import on_squares

    return [on_squares(experiment) for experiment in found]


def cells_of(found: Sequence[Experiment], only: Sequence[str]) -> list[Any]:
    """The cells of the items whose rows match, or all. UsageError for what matches in none."""
    from repro import plan

    rows = list(dict.fromkeys(row for experiment in found for row in experiment.rows))
    for pattern in only:
        if pattern != "showcase" and not plan.matching(rows, pattern):
            items = ", ".join(experiment.name for experiment in found)
            raise UsageError(f"{items} has no method {pattern!r}; {hint(pattern, rows)}")
    return [cell for experiment in found for cell in plan.select(experiment, only)]


def split_items(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The leading words name items; options follow. UsageError for a word that names none."""
    leading, rest = split_words(words)
    found = [name for word in leading for name in _items_of(word)]
    return list(dict.fromkeys(found)), rest


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The leading words, and the options that follow."""
    first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    return list(words[:first]), list(words[first:])


def _items_of(word: str) -> list[str]:
    try:
        return experiments.matching(word)
    except KeyError:
        from repro.verbs import VERBS

        near = hint(word, [*experiments.names(), "all", *VERBS])
        raise UsageError(f"unknown item {word!r}; {near}") from None


def require_item(items: Sequence[str], rest: Sequence[str], verb: str) -> None:
    if not items and not {"-h", "--help"} & set(rest):
        before = f" before {rest[0]}" if rest else ""
        raise UsageError(f"{verb} which item? Name it{before}: {', '.join(experiments.names())}")
