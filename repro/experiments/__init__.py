"""The paper: one module per table or figure. This folder is the registry: to add one, add a file
that defines `EXPERIMENT`, and list nothing."""

from __future__ import annotations

import importlib
from pathlib import Path

from repro.spec import Experiment

_SHARED = {
    "__init__",
    "adversarial_recipes",
    "architecture",
    "imagenet_recipes",
    "recipes",
    "scales",
    "seeing",
}  # modules of this folder that are not experiments


def names() -> list[str]:
    """The experiments there are, in the paper's order."""
    found = {path.stem for path in Path(__file__).parent.glob("*.py")} - _SHARED
    return sorted(found, key=_order)


def _order(name: str) -> tuple[bool, bool, int, int, str]:
    """Tables before figures, the appendix last, by number; top before bottom, left before right."""
    number = int("".join(filter(str.isdigit, name)))
    return not name.startswith("table"), "_a" in name, number, len(name), name


def matching(word: str) -> list[str]:
    """The experiments that a word names: itself, its panels (figure6 has two), or 'all'.

    KeyError if there is none. A hyphen may stand for an underscore.
    """
    word = word.replace("-", "_").lower()
    found = [n for n in names() if word in ("all", n) or n.startswith(f"{word}_")]
    if word in found:
        found = [word]
    if not found:
        raise KeyError(word)
    return found


def get(name: str) -> Experiment:
    """The experiment `name`; KeyError if there is none."""
    if name not in names():
        raise KeyError(name)
    experiment = importlib.import_module(f"{__name__}.{name}").EXPERIMENT
    assert isinstance(experiment, Experiment), name
    assert experiment.name == name, name
    return experiment
