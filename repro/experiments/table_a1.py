"""Every architecture of the paper's classification experiments: parameters and multiply-adds.

Table A1 of the appendix, which is not in our copy of the paper, lists NesT's; its authors say that
it has errors (official issue 2). Here the models are counted at paper scale, which also gives every
run a price.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from repro.experiments import figure_a1, figure_a3, proxy, table1, table2, table3
from repro.experiments.scales import title
from repro.spec import Cell, Claim, Classification, Decision, Experiment, Profiling


def _runs() -> Iterator[tuple[str, Classification]]:
    """The name and a run of every architecture, including those of pre-training."""
    for experiment in (table1, table2, table3):
        for cell in experiment.EXPERIMENT.cells:
            for run in (cell.run, cell.run.starts_from) if "paper" in cell.scales else ():
                if run and run.tested_classifier:
                    yield cell.row, run.tested_classifier
    for experiment in (figure_a1, figure_a3):
        for cell in experiment.EXPERIMENT.cells:
            if run := cell.run.tested_classifier:
                name = cell.row if experiment is figure_a1 else f"NesT-T, {cell.row}, {cell.column}"
                yield name, run


def _proxy(run: Classification) -> Profiling | None:
    """The same for the small version on CIFAR-10, if there is one."""
    small = proxy.model_of(run) if run.dataset == "cifar10" else None
    return replace(run, model=small).cost_profile if small else None


def _cells() -> tuple[Cell, ...]:
    cells, listed = list[Cell](), set[object]()
    for name, run in _runs():
        counted = run.cost_profile
        if counted in listed:
            continue
        listed.add(counted)
        group = f"{title(run.dataset)}, {counted.image_size} px"
        row = f"{name} ({group})"
        cells += [
            Cell(group=group, row=row, column="#Params", run=counted, metric="parameters",
                 proxy=_proxy(run)),
            Cell(group=group, row=row, column="GMACs", run=counted, metric="macs",
                 proxy=_proxy(run)),
        ]  # fmt: skip
    return tuple(sorted(cells, key=lambda cell: cell.group))


def _above(quote: str, place: str, row: str, others: tuple[str, ...], column: str) -> Claim:
    """One architecture's count above that of others; paper scale only, small versions are equal."""
    group = " (CIFAR-10, 32 px)"
    tested = f"{_WORDS[column]}: {row} above {' and '.join(others)}, on CIFAR"
    return Claim(quote, place, tested, ((row + group, column),),
                 tuple((other + group, column) for other in others), scales=("paper",))  # fmt: skip


_WORDS = {"#Params": "parameters", "GMACs": "multiply-adds, as a proxy for 'slower'"}
_CONVNETS = ("Pyramid-164-48", "WRN28-10")

EXPERIMENT = Experiment(
    name="table_a1",
    place="Table A1",
    title="Architectures",
    caption=(
        "GMACs: 10⁹ multiply-adds of one image's forward pass. Heads have the classes of each "
        "dataset."
    ),
    cells=_cells(),
    headings=("", "Architecture"),
    claims=tuple(
        _above("while still being larger and slower, as they do not incorporate convolutional "
               "inductive biases", "Experiments, CIFAR", "NesT-B", _CONVNETS, column)
        for column in _WORDS
    ),
    decisions=(
        Decision("heads, order and depth of the hierarchies of NesT", "as in the official code",
                 "as printed in Table A1", "the authors confirm that the table is wrong "
                 "(official issue 2)"),
    ),
)  # fmt: skip
