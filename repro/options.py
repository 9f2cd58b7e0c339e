"""What commands have in common: their parsers, their one-line errors, how they name things."""

from __future__ import annotations

import difflib
import math
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from repro import experiments
from repro.spec import SCALES, Experiment, Scale

# Options without a value, of all commands. They tell which words are values before a parser is
# chosen, so that options may stand anywhere. (A test compares them with the parsers.)
FLAGS = frozenset(
    ["-h", "--help", "--version", "--json", "--decisions", "--watch", "-f", "--follow", "--runs",
     "--dry-run", "--wait", "--yes", "--list"])  # fmt: skip
MAX_SEEDS = 100
MAX_CHECKPOINT_SECONDS = 604_800  # a week
MAX_GPU_HOURS = 1e9  # 114 GPUs for a thousand years
MAX_RANKS = 1024  # far above what is sensible; a number without an end fills the memory
RESULTS = Path("results")  # where none is named


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
            line = _one_line(message, self._actions)
            raise UsageError(f"{line} (repro {command.split()[0]} --help)")

        def print_help(self, *_: object) -> None:
            """Not argparse's, which keeps silent where it cannot print."""
            print(self.format_help(), end="", flush=True)

    return Parser(
        prog=f"repro {command}",
        description=about,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )


def parse(parser: Any, words: Sequence[str]) -> Any:
    """The options and other words of a command line, in any order."""
    others, options = split_words(words)
    for word in options:
        if word.startswith("--") and "." in word.partition("=")[0]:  # jsonargparse: a nested key
            parser.error(f"unrecognized arguments: {word}")
    end = ["--"] if any(word.startswith("-") for word in others) else []
    given = parser.parse_args([*options, *end, *others])
    if "results" in given and given.results is None:  # what is not needed may be unusable
        given.results = from_environment("REPRO_RESULTS", folder_of, str(RESULTS))
    return given


def parse_items(parser: Any, words: Sequence[str], verb: str = "") -> tuple[list[str], Any]:
    """The items among the words, and the options; UsageError for a word that names no item.

    With a `verb` at least one item is required.
    """
    others, options = split_words(words)
    items = list(dict.fromkeys(name for word in others for name in _items_of(word)))
    if verb and not items and not {"-h", "--help"} & set(options):
        raise UsageError(f"{verb} which item? Name one: {', '.join(experiments.names())}")
    return items, parse(parser, options)


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words that are neither options nor values of options; and those that are."""
    others, options, rest = list[str](), list[str](), iter(words)
    for word in rest:
        if word == "--":
            others += rest
        elif not word.startswith("-") or word == "-":
            others.append(word)
        else:
            has_value = word not in FLAGS and "=" not in word
            options += [word, *islice(rest, int(has_value))]
    return others, options


def _one_line(message: str, actions: Iterable[Any]) -> str:
    """A parser's message with its options as they are typed, and with the nearest to one that it
    does not have."""
    line = " ".join(message.split())
    words, absent = line.partition("arguments are required: ")[::2]
    if absent:
        typed = {action.dest: _typed(action) for action in actions}
        return f"{words}arguments are required: {', '.join(map(typed.get, absent.split(', ')))}"  # type: ignore[arg-type]
    flags = [flag for action in actions for flag in action.option_strings]
    if line.startswith("unrecognized arguments: --"):
        word = re.split("[ =]", line)[2]
        return f"{line}; {why}" if (why := _why_unknown(word, flags)) else line
    return line


def _typed(action: Any) -> str:
    """An argument as it is typed: '--run RUN', or 'IMAGE'."""
    name = action.metavar or action.dest.upper()
    return f"{action.option_strings[0]} {name}" if action.option_strings else name


def _why_unknown(word: str, flags: Iterable[str]) -> str:
    """The nearest of a command's options, or what the option is for; '' if nobody knows."""
    from repro.launch import start

    if launch := start.launch_of(word):
        return f"{word} is for {launch}"
    names = [flag.lstrip("-") for flag in flags]  # without dashes, which all have in common
    near = difflib.get_close_matches(word.lstrip("-"), names, 1)
    return f"did you mean --{near[0]}?" if near else ""


def hint(word: str, known: Iterable[str]) -> str:
    """The nearest of what is known, capitals aside, or what of it fits into a line or two."""
    spelled = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), spelled, 1, cutoff=0.5)
    some = textwrap.shorten(
        ", ".join(spelled.values()), 300, placeholder=" ...", break_on_hyphens=False
    )
    return f"did you mean {spelled[near[0]]}?" if near else f"there are {some}"


# --- values of options ----------------------------------------------------------------------------


def path_of(text: str | Path) -> Path:
    """A path. UsageError for one that cannot exist, such as one in nobody's home."""
    try:
        os.fsencode(text).decode()
        path = Path(text).expanduser()
        path.stat()
    except FileNotFoundError:
        pass
    except UnicodeError:
        raise UsageError(f"{os.fspath(text)!a} is not UTF-8; rename it") from None
    except RuntimeError:
        user = Path(text).parts[0]
        raise UsageError(f"{text}: no home folder of {user}; name another path") from None
    except ValueError:
        raise UsageError(f"{os.fspath(text)!a} cannot be a path; name another") from None
    except OSError as error:
        raise UsageError(f"{str(text)[:300]}: {error.strerror}; name another path") from None
    if not os.fspath(text):
        raise UsageError("an empty text is no path; name one, such as .")
    return path


def folder_of(text: str | Path) -> Path:
    """A path at which there is a folder or nothing."""
    path = path_of(text)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, where a folder is expected; name another path")
    return path


def number(option: str, most: int, least: int = 1) -> Callable[[str | int], int]:
    """The type of an option whose value is a whole number from `least` to `most`."""

    def read(value: str | int) -> int:  # jsonargparse calls it again with what it returned
        text = str(value).strip()
        if not (
            text.isascii() and text.isdigit() and len(text) < 19 and least <= int(text) <= most
        ):
            raise UsageError(f"{option}: a whole number from {least} to {most:,}, not {value!a}")
        return int(text)

    return read


def real(option: str, most: float, least: float = 0.0) -> Callable[[str | float], float]:
    """The type of an option whose value is a number from `least` to `most`."""

    def read(value: str | float) -> float:
        try:
            found = float(value)
        except ValueError:
            found = math.nan
        if not least <= found <= most:  # nor NaN
            raise UsageError(f"{option}: a number from {least:g} to {most:,.0f}, not {value!a}")
        return found

    return read


def from_environment(variable: str, read: Callable[[str], Path], default: str = "") -> Path | None:
    """The path in a variable, or else the default; None if there is neither.

    UsageError names the variable if its path cannot be used.
    """
    if not (value := os.environ.get(variable)):
        return read(default) if default else None
    try:
        return read(value)
    except UsageError as error:
        raise UsageError(f"{variable}: {error}") from None


def data_folder() -> Path:
    """Where the datasets are, if no option says so."""
    return from_environment("REPRO_DATA", folder_of, "data") or Path()


def weights_folder() -> Path | None:
    """Where released weights are, if no option says so; None: the hub's cache, or the hub."""
    return from_environment("REPRO_WEIGHTS", folder_of)


def cluster_file() -> Path | None:
    """The site's file, if no option says so."""
    return from_environment("REPRO_CLUSTER", _file_of)


def _file_of(text: str | Path) -> Path:
    """A path at which there is something."""
    path = path_of(text)
    if not path.exists():
        step = f"`repro doctor --cluster {path}` writes a first one"
        raise UsageError(f"{path}: no such file; {step}")
    return path


def add_data(parser: Any) -> None:
    """The option; its default is `data_folder()`, which may be unusable where it is not needed."""
    parser.add_argument("--data", type=folder_of, metavar="DIR",
                        help="datasets (REPRO_DATA; default: data)")  # fmt: skip


def add_results(parser: Any) -> None:
    """The option; `parse` fills in its default."""
    parser.add_argument("--results", type=folder_of, metavar="DIR",
                        help="results (REPRO_RESULTS; default: results)")  # fmt: skip


def add_places(parser: Any) -> None:
    add_data(parser)
    add_results(parser)


def absence_of(results: Path) -> str:
    """What to say of a results folder that was named and is not there; '' if all is well."""
    if results == RESULTS or results.exists():
        return ""
    return f"there is no folder {results}, so no run in it; --results DIR names another"


def add_scale(parser: Any, default: Scale | None) -> None:
    parser.add_argument(
        "--scale", choices=SCALES, default=default, help=f"default: {default or 'all'}"
    )


def add_only(parser: Any) -> None:
    parser.add_argument("--only", action="append", default=[], metavar="METHOD",
                        help="a method, NesT for its family, or a pattern; may be repeated; "
                        "'showcase' is one method of every family")  # fmt: skip


def add_rows(parser: Any) -> None:
    add_only(parser)
    parser.add_argument(
        "--images",
        choices=("original", "256px"),
        default="original",
        help="256px: ImageNet from squares made once by `repro prepare imagenet-256px`; faster to "
        "read, other crops, so other runs",
    )


def add_seeds(parser: Any) -> None:
    parser.add_argument(
        "--seeds",
        type=number("--seeds", MAX_SEEDS),
        metavar="N",
        help="default: 3 to train, 1 at smoke scale; to look and draw, as many as there are",
    )


def add_budget(parser: Any) -> None:
    parser.add_argument("--budget", type=_gpu_hours, metavar="500gpuh",
                        help="only the runs that decide most claims for so much; a run without "
                        "a known price is left out, and so are all runs of its claims")  # fmt: skip


def _gpu_hours(value: str | float) -> float:
    """The number in '500gpuh'; jsonargparse hands it over a second time, as a number."""
    try:
        hours = float(str(value).lower().removesuffix("gpuh"))
    except ValueError:
        hours = 0.0
    if not 0 < hours <= MAX_GPU_HOURS:  # nor NaN
        what = f"a number of GPU-hours above 0, at most {MAX_GPU_HOURS:,.0f}, such as 500gpuh"
        raise UsageError(f"--budget: {what}, not {value!a}")
    return hours


def seeds_of(given: int | None, scale: Scale) -> int:
    """How many seeds a scale has unless it was said."""
    return given or (1 if scale == "smoke" else 3)


def chosen(items: Sequence[str], given: Any) -> list[Experiment]:
    """The items of these names, with --images 256px their versions on squares.

    UsageError if that makes no difference, or if --only names a row that none of them has.
    """
    found = [experiments.get(name) for name in items]
    if given.images != "original":
        found = _on_squares(found, given.scale)
    check_rows(found, given.only)
    return found


def _on_squares(found: list[Experiment], scale: Scale | None) -> list[Experiment]:
    from repro.experiments.scales import on_squares

    if scale == "proxy":
        raise UsageError("--images 256px is for ImageNet; the proxy scale has embedded images")
    squares = [on_squares(experiment) for experiment in found]
    if squares == found:
        items = ", ".join(experiment.name for experiment in found)
        raise UsageError(f"--images 256px is for ImageNet, of which {items} reads nothing")
    return squares


def check_rows(found: Sequence[Experiment], only: Sequence[str]) -> None:
    """UsageError for a pattern that matches no row of the items."""
    from repro import plan

    rows = list(dict.fromkeys(row for experiment in found for row in experiment.rows))
    for pattern in only:
        if not any(plan.select(experiment, [pattern]) for experiment in found):
            items = ", ".join(experiment.name for experiment in found)
            raise UsageError(f"{items} has no method {pattern!r}; {hint(pattern, rows)}")


def _items_of(word: str) -> list[str]:
    try:
        return experiments.matching(word)
    except KeyError:
        from repro.verbs import VERBS

        near = hint(word, [*experiments.names(), "all", *VERBS])
        raise UsageError(f"unknown item {word!r}; {near}") from None
