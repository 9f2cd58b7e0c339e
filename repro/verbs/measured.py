"""The verb that measures this code itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repro.bench import BENCHMARKS, How
from repro.options import (
    UsageError,
    folder_of,
    hint,
    number,
    parse,
    parser_of,
    path_of,
    split_words,
)

RECORDS = Path("benchmarks/records")
MOST_ROUNDS = 1000
_OF_MODELS = ("nest", "small")


def bench(words: Sequence[str]) -> int:
    """measure this code beside what else there is, and draw the page about it"""
    parser = parser_of("bench [NAME...]", "Measure benchmarks, by default all; put them on file.")
    parser.add_argument("--list", action="store_true", help="print what there is, and stop")
    parser.add_argument("--rounds", type=number("--rounds", MOST_ROUNDS), default=5, metavar="N",
                        help="how often both sides take turns (default: 5)")  # fmt: skip
    parser.add_argument("--only", metavar="MODEL,..", default="",
                        help="these models of nest or small; not put on file unless --records "
                        "says where")  # fmt: skip
    parser.add_argument("--against", metavar="COMMIT", default="",
                        help="of small: beside the code of this commit")  # fmt: skip
    parser.add_argument("--records", type=folder_of, metavar="DIR",
                        help=f"the files (default: {RECORDS})")  # fmt: skip
    parser.add_argument("--write", type=path_of, metavar="FILE",
                        help="draw the page from the files; without NAME nothing is "
                        "measured")  # fmt: skip
    others, options = split_words(words)
    given = parse(parser, options)
    names = _names(others, given)
    if given.list:
        print(*(f"{name:14} {BENCHMARKS[name]}" for name in names or BENCHMARKS), sep="\n")
        return 0
    folder = given.records or RECORDS
    missed = 0
    if names:
        from repro.bench import run

        only = tuple(word for word in given.only.split(",") if word)
        _check_models(names, only)
        how = How(given.rounds, only, given.against)
        missed = run.measure_all(names, how, given.records if only else folder)
    if given.write:
        _draw(folder, given.write)
    return 2 if missed and others not in ([], ["all"]) else 0


def _names(others: Sequence[str], given: Any) -> list[str]:
    """The benchmarks that are asked for. UsageError for one that there is not, or for an option
    that they would ignore."""
    for word in others:
        if word not in BENCHMARKS and word != "all":
            raise UsageError(f"unknown benchmark {word!a}; {hint(word, ['all', *BENCHMARKS])}")
    every = "all" in others or not (others or given.write)
    names = list(BENCHMARKS) if every else list(dict.fromkeys(others))
    if given.only and not {*names} & {*_OF_MODELS}:
        raise UsageError(
            f"--only is for {' and '.join(_OF_MODELS)}; name one of them, or take it out"
        )
    if given.against and "small" not in names:
        raise UsageError("--against is for small; name it, or take --against out")
    return names


def _check_models(names: Sequence[str], only: Sequence[str]) -> None:
    """UsageError for a model that one of the benchmarks has not."""
    from repro.bench import run

    for name in names:
        known = run.models(name)
        for model in only if known else ():
            if model not in known:
                raise UsageError(f"--only: {name} has no model {model!a}; {hint(model, known)}")


def _draw(folder: Path, file: Path) -> None:
    """Draw the page."""
    from repro import results
    from repro.bench import page, record

    text = page.draw(page.WORDS, record.every(folder))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make {file.parent}: {error.strerror}; name another") from error
    results.write(file, text)
    print(file)
