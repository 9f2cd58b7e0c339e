"""The ledger of decisions: what the paper leaves open, our choice, and its source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from repro import paper
from repro.spec import Cell, Decision, Experiment


@dataclass(frozen=True)
class OpenValues:
    """Recipe values of one source that the paper does not state, and the rows that use them."""

    values: dict[str, object]
    source: str
    rows: tuple[str, ...]

    @property
    def is_ours(self) -> bool:
        """Whether it is our choice, and not from the code of the authors or of others."""
        return self.source.startswith("our choice")


def values(experiment: Experiment) -> list[OpenValues]:
    """The recipe values of an item that the paper does not state, our own choices first."""
    rows: dict[tuple[str, object, str], list[str]] = {}
    for cell in experiment.cells:
        for key in _open(cell):
            rows.setdefault(key, []).append(cell.row)
    together: dict[tuple[str, tuple[str, ...]], dict[str, object]] = {}
    for (name, value, source), names in rows.items():
        together.setdefault((source, tuple(dict.fromkeys(names))), {})[name] = value
    entries = [OpenValues(open_, source, names) for (source, names), open_ in together.items()]
    return sorted(entries, key=lambda entry: not entry.is_ours)


def _open(cell: Cell) -> Iterator[tuple[str, object, str]]:
    """The values that the paper does not state.

    Values of pre-training are named 'pretrained.<name>' and listed if they differ.
    """
    listed = set[tuple[str, object, str]]()
    for name, source in cell.sources:
        field = name.removeprefix("pretrained.")
        value = cell.run.recipe_value(name)
        if not source.startswith("paper") and (field, value, source) not in listed:
            yield name, value, source
        listed.add((field, value, source))


def lines(experiment: Experiment) -> list[str]:
    """The ledger of one item as text."""
    text = [f"{experiment.name}: {experiment.place}. {experiment.title}"]
    for decision in experiment.decisions:
        text += _decision_lines(decision)
    for entry in values(experiment):
        shown = ", ".join(f"{name} = {plain(value)}" for name, value in entry.values.items())
        text += [f"  {shown}  [{some(entry.rows)}]", f"      {entry.source}"]
    return text


def common_lines(chosen: Iterable[Experiment]) -> list[str]:
    """The decisions of the paper's catalogue that apply to any of the items, once each."""
    current = paper.current()
    common = dict.fromkeys(decision for item in chosen for decision in current.decisions(item))
    text = [line for decision in common for line in _decision_lines(decision)]
    return [current.decisions_title, *text] if text else []


def _decision_lines(decision: Decision) -> list[str]:
    instead = f"instead of: {decision.instead}"
    return [f"  {decision.question}: {decision.chosen}", f"      {instead}; {decision.why}"]


def plain(value: object) -> str:
    """A value of a recipe as text."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def some(rows: tuple[str, ...]) -> str:
    """'A, B, C and 12 more'."""
    return ", ".join(rows) if len(rows) <= 4 else f"{', '.join(rows[:3])} and {len(rows) - 3} more"


def as_json(experiment: Experiment) -> dict[str, Any]:
    """The ledger of one item, for programs."""
    common = paper.current().decisions(experiment)
    return {
        "item": experiment.name,
        "decisions": [asdict(decision) for decision in (*experiment.decisions, *common)],
        "values": [asdict(entry) | {"is_ours": entry.is_ours} for entry in values(experiment)],
    }
