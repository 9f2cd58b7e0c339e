"""The report as HTML: one file without any reference outside itself, or a folder for a web server.

Texts are escaped by the template. The style and the script are inline and named in the page's
Content Security Policy by their hash, so that the browser runs no other.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from repro.core import output
from repro.core.cells import HOLE
from repro.core.claims import VERDICTS
from repro.render.paths import file_of
from repro.report import curves
from repro.report.content import Block, ClaimTest, Missing, PlacedBlock, Report
from repro.report.guarantees import GUARANTEES
from repro.spec import SCALES, Scale

INDEX = "index.html"  # of a folder

# What a data URL in an attribute may have as it is.
_SAFE_IN_URL = " !$()*+,-./:;=?@[]^_`{|}~"

Address = Callable[[Block], str]  # of a figure


def html(report: Report) -> str:
    """The report as one page, with its figures in it."""
    return _page(report, _inline, "data:", has_files=False)


def folder(report: Report) -> dict[Path, str]:
    """The report as files by path: the page, its figures as SVG and its tables as CSV."""
    contents = {Path(INDEX): _page(report, _figure_path, "'self'", has_files=True)}
    for placed in report.blocks:
        block = placed.block
        contents[file_of("tables", block.item, block.scale, "csv")] = block.csv
        if block.figure:
            contents[Path(_figure_path(block))] = block.figure
    return contents


def _inline(block: Block) -> str:
    """A data URL of a figure. As an image it can neither run a script nor load anything."""
    content = quote(block.figure, safe=_SAFE_IN_URL, errors="replace")
    return f"data:image/svg+xml;charset=utf-8,{content}"


def _figure_path(block: Block) -> str:
    return file_of("figures", block.item, block.scale, "svg").as_posix()


def _page(report: Report, figure: Address, images: str, *, has_files: bool) -> str:
    style, script = (_asset(name) for name in ("style.css", "script.js"))
    policy = (
        f"default-src 'none'; img-src {images}; style-src {_source(style)}; "
        f"script-src {_source(script)}; base-uri 'none'; form-action 'none'"
    )
    text = _environment().get_template("report.html").render(
        report=report,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        evidence=Markup(_json(_evidence(report))),
        figure=figure,
        csv=lambda block: file_of("tables", block.item, block.scale, "csv").as_posix(),
        has_files=has_files,
        claims=sorted(_quotes(report), key=_is_open),
        verdicts=VERDICTS,
        missing=list(_missing(report)),
        guarantees=GUARANTEES,
        plot=(curves.WIDTH, curves.HEIGHT),
    )  # fmt: skip
    return text.encode("utf-8", "backslashreplace").decode()


@cache
def _asset(name: str) -> str:
    return files("repro.report").joinpath("templates", name).read_text("utf-8")


def _source(text: str) -> str:
    """The hash of an inline style or script, as a Content Security Policy has it."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("repro.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: output.terminal(value) if type(value) is str else value,
    )
    environment.filters["prose"] = _prose
    return environment


def _prose(text: str) -> Markup:
    """A text of ours, with `code` as code."""
    plain = str(escape(output.terminal(text)))
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", plain))


# --- claims --------------------------------------------------------------------------------------


def _quotes(report: Report) -> Iterator[dict[str, Any]]:
    """The claims by item, scale and quotation, each test with its index in the report."""
    for placed in report.blocks:
        numbered = list(enumerate(placed.block.claims, placed.first_claim))
        for (text, place), tests in groupby(numbered, key=_quote):
            yield {
                "placed": placed,
                "quote": text,
                "place": place,
                "tests": [(number, test, _compared(placed, test)) for number, test in tests],
                "budgets": placed.block.budgets.get(text, ()),
            }


def _quote(numbered: tuple[int, ClaimTest]) -> tuple[str, str]:
    return numbered[1].quote, numbered[1].place


def _is_open(quote: Mapping[str, Any]) -> bool:
    """Whether none of its tests has been run."""
    return all(test.verdict == HOLE for _, test, _ in quote["tests"])


def _compared(placed: PlacedBlock, test: ClaimTest) -> list[tuple[int, str]]:
    """The cells of a test: the index in the report, and the place in the table."""
    cells = placed.block.cells
    return [(placed.first_cell + i, ", ".join(cells[i].place[1:])) for i in test.cells]


def _missing(report: Report) -> Iterator[tuple[Scale, int, list[list[Missing]]]]:
    """What is not run, by scale and item, with the number of runs at the scale."""
    for scale in SCALES:
        rows = [each for each in report.missing if each.scale == scale]
        if rows:
            by_item = [list(of_item) for _, of_item in groupby(rows, lambda each: each.item)]
            yield scale, sum(each.num_runs for each in rows), by_item


# --- evidence ------------------------------------------------------------------------------------


def _evidence(report: Report) -> dict[str, Any]:
    """What the script shows of a cell: lists, in which cells, runs and recipes name each other by
    index, so that what many cells share is there once."""
    runs, recipes, values, texts = _Index(), _Index(), _Index(), _Index()
    cells = []
    for placed in report.blocks:
        for cell in placed.block.cells:
            recipe = tuple(values.add(each) for each in cell.recipe)
            cells.append([
                cell.place, texts.add(placed.block.scale), texts.add(cell.unit), cell.value,
                cell.paper, cell.formula,
                [[runs.add(each.run), texts.add(each.status), each.value] for each in cell.seeds],
                recipes.add(recipe), [placed.first_claim + i for i in cell.claims], cell.command,
            ])  # fmt: skip
    drawn = {run: number for number, curve in enumerate(_curves(report)) for run in curve.runs}
    marks = {run: i for i, group in enumerate(report.outdated) for run in group.runs}
    return {
        "cells": cells,
        "runs": list(_runs(report, runs, drawn, marks, texts)),
        "recipes": recipes.every,
        "values": values.every,
        "outdated": [[each.state, each.waiver] for each in report.outdated],
        "claims": [
            [texts.add(claim.verdict), claim.tested]
            for placed in report.blocks
            for claim in placed.block.claims
        ],
        "texts": texts.every,
    }


def _runs(
    report: Report, runs: _Index, drawn: Mapping[str, int], marks: Mapping[str, int], texts: _Index
) -> Iterator[list[Any]]:
    """Each run: id, price if it is to do, curve, group of outdated results, and its evidence.

    A run that another starts from is added to `runs`.
    """
    place = 0
    while place < len(runs.every):
        name = runs.every[place]
        place += 1
        head = [name, report.prices.get(name, ""), drawn.get(name, -1), marks.get(name, -1)]
        evidence = report.runs.get(name)
        if evidence is None:
            yield head
            continue
        about = [[texts.add(key), texts.add(value)] for key, value in evidence.about]
        files = [texts.add(evidence.folder.rpartition("/")[0]), evidence.sha256]
        before = runs.add(evidence.starts_from) if evidence.starts_from else -1
        state = texts.add(evidence.state)
        yield [*head, evidence.seed, *files, about, evidence.site, before, evidence.patch, state]


def _curves(report: Report) -> list[Any]:
    return [curve for group in report.curves for curve in group.curves]


class _Index:
    """Values by the order in which they came first."""

    def __init__(self) -> None:
        self.every = list[Any]()
        self._places = dict[Any, int]()

    def add(self, value: Any) -> int:
        if value not in self._places:
            self._places[value] = len(self.every)
            self.every.append(value)
        return self._places[value]


def _json(value: object) -> str:
    """JSON that ends no script element and holds no line separator."""
    text = json.dumps(_printable(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _printable(value: object) -> object:
    """The same, with every text as it is printed: `output.terminal`."""
    if isinstance(value, str):
        return output.terminal(value)
    if isinstance(value, Mapping):
        return {name: _printable(inner) for name, inner in value.items()}
    return [_printable(each) for each in value] if isinstance(value, list | tuple) else value
