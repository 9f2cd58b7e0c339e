"""The engine names no paper: its source is searched for the names that the default paper has.

The engine is all of `repro/` but the paper (`experiments`) and the library of parts that papers
build on (PARTS). The names are the paper's own: its items and their places, the methods in its
tables, and the models that its runs build. `repro.experiments` occurs once, where the default paper
is chosen.

GradCAT is no such name. `kinds/traversal.py` follows it down any classifier that has a tree of
blocks (`repro.interpret.gradcat.has_tree`), as `kinds/localization.py` follows CAM or rollout; a
kind of run may name its algorithm, and whatever draws its results may name it too.

Only Python is searched. The measured costs in `repro/cost/*.json` are data by the ids of runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

import repro
from repro import experiments, paper
from repro.spec import Model

ROOT = Path(repro.__file__).parent
PARTS = {"bench", "data", "experiments", "fidelity", "interpret", "models", "tasks", "train"}
ENGLISH = {"hit": "HiT's models begin with it; a path hits an object"}
ITEMS = [experiments.get(name) for name in experiments.names()]


def engine() -> list[Path]:
    """The engine's Python files."""
    paths = (path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
    return sorted(path for path in paths if path.parts[0] not in PARTS)


def models(value: object) -> Iterator[str]:
    """The names of the models in a run, or in a run within it."""
    if isinstance(value, Model):
        yield value.name
    elif is_dataclass(value):
        for field in fields(value):
            yield from models(getattr(value, field.name))


def methods() -> set[str]:
    """The rows of tables that are a model's."""
    cells = [cell for item in ITEMS if not item.plot for cell in item.cells]
    return {cell.row for cell in cells if cell.run.is_training or cell.run.as_profile}


def names() -> set[str]:
    """What only this paper has: names in full, and the families of methods and models."""
    built = {name for item in ITEMS for cell in item.cells for name in models(cell.run)}
    families = {match[0] for name in methods() | built if (match := re.match("[A-Za-z]+", name))}
    items = {item.name for item in ITEMS} | {item.place for item in ITEMS}
    items |= {item.name.partition("_")[0] for item in ITEMS if re.match(r"[a-z]+\d", item.name)}
    return {experiments.PAPER.name} | items | methods() | built | families


ANY_NAME = "|".join(re.escape(name) for name in sorted(names(), key=len, reverse=True))
PATTERN = re.compile(f"(?<![A-Za-z0-9])(?:{ANY_NAME})(?![A-Za-z0-9])", re.IGNORECASE)


def named(source: str) -> list[str]:
    """The names of the paper in a text, but for words of plain English."""
    return [word for word in PATTERN.findall(source) if word not in ENGLISH]


@pytest.mark.parametrize("path", engine(), ids=str)
def test_the_engine_names_no_paper(path: Path) -> None:
    lines = enumerate((ROOT / path).read_text().splitlines(), start=1)
    assert {number: found for number, line in lines if (found := named(line))} == {}


def test_the_default_paper_is_named_once() -> None:
    sources = {path: (ROOT / path).read_text() for path in engine()}
    found = {str(path): n for path, text in sources.items() if (n := text.count(paper.DEFAULT))}
    assert found == {"paper.py": 1}


def test_every_word_of_english_is_needed() -> None:
    sources = [(ROOT / path).read_text() for path in engine()]
    assert ENGLISH.keys() <= {word for text in sources for word in PATTERN.findall(text)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"""As NesT does."""', ["NesT"]),
        ('example = "repro table1 --launch slurm"', ["table1"]),
        ("limit = 250  # Table 1 takes 245", ["Table 1"]),
        ('if row.startswith("Swin-T"): ...', ["Swin-T"]),
        ('if "swin" in run.id: ...', ["swin"]),
        ('timm.create_model("pvt_tiny")', ["pvt_tiny"]),
        ("nest_side = 1", ["nest"]),
        ('"nests too deeply; the hit rate of the first table"', []),
    ],
)
def test_a_name_is_found(source: str, expected: list[str]) -> None:
    assert named(source) == expected
