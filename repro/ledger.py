"""The ledger of decisions: what the paper does not fix, what was chosen, and from where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from repro.experiments.architecture import DECISIONS
from repro.spec import Cell, Classification, Decision, Experiment, Generation, Run


@dataclass(frozen=True)
class Entry:
    """Values of some recipes, of one source, that the paper does not state. `rows`: whose."""

    values: dict[str, object]
    source: str
    rows: tuple[str, ...]

    @property
    def is_ours(self) -> bool:
        """Whether it is our choice; else it is the authors' code, or a third party's, that says."""
        return self.source.startswith("our choice")


def values(experiment: Experiment) -> list[Entry]:
    """The recipe values of an item that the paper does not state, our own choices first."""
    rows: dict[tuple[str, object, str], list[str]] = {}
    for cell in experiment.cells:
        for key in _open(cell):
            rows.setdefault(key, []).append(cell.row)
    together: dict[tuple[str, tuple[str, ...]], dict[str, object]] = {}
    for (name, value, source), of in rows.items():
        together.setdefault((source, tuple(dict.fromkeys(of))), {})[name] = value
    entries = [Entry(found, source, of) for (source, of), found in together.items()]
    return sorted(entries, key=lambda entry: not entry.is_ours)


def _open(cell: Cell) -> Iterator[tuple[str, object, str]]:
    """The values that the paper does not state.

    Those of the run before are 'pretrained.<name>', and told where they are others.
    """
    seen = set[tuple[str, object, str]]()
    for name, source in cell.sources:
        field = name.removeprefix("pretrained.")
        run: Run | str | None = cell.run
        if field != name:
            run = cell.training.pretrained
        assert isinstance(run, Classification | Generation)
        value = getattr(run.recipe, field)
        if not source.startswith("paper") and (field, value, source) not in seen:
            yield name, value, source
        seen.add((field, value, source))


def _has_nest(experiment: Experiment) -> bool:
    return any("nest" in cell.run.id for cell in experiment.cells)


def lines(experiment: Experiment) -> list[str]:
    """The ledger of one item, to be read."""
    told = [f"{experiment.name}: {experiment.place}. {experiment.title}"]
    for decision in experiment.decisions:
        told += _told(decision)
    for entry in values(experiment):
        shown = ", ".join(f"{name} = {_plain(value)}" for name, value in entry.values.items())
        told += [f"  {shown}  [{_some(entry.rows)}]", f"      {entry.source}"]
    return told


def common_lines(chosen: Iterable[Experiment]) -> list[str]:
    """What was decided of NesT, if any of the items has it."""
    if not any(map(_has_nest, chosen)):
        return []
    return ["NesT, wherever it is", *(line for decision in DECISIONS for line in _told(decision))]


def _told(decision: Decision) -> list[str]:
    instead = f"instead of: {decision.instead}"
    return [f"  {decision.question}: {decision.chosen}", f"      {instead}; {decision.why}"]


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _some(rows: tuple[str, ...]) -> str:
    return ", ".join(rows) if len(rows) <= 4 else f"{', '.join(rows[:3])} and {len(rows) - 3} more"


def as_json(experiment: Experiment) -> dict[str, Any]:
    """The ledger of one item, for programs."""
    common = DECISIONS if _has_nest(experiment) else ()
    return {
        "item": experiment.name,
        "decisions": [asdict(decision) for decision in (*experiment.decisions, *common)],
        "values": [asdict(entry) | {"is_ours": entry.is_ours} for entry in values(experiment)],
    }
