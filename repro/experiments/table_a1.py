"""Every architecture of the paper's classification experiments: parameters and multiply-adds.

Table A1 of the appendix, which is not in our copy of the paper, has NesT's; its authors say that it
has errors (official issue 2). Here the models are counted themselves, at paper scale, and a price
can be put on every run.
"""

from __future__ import annotations

from collections.abc import Iterator

from repro import price
from repro.experiments import figure_a1, figure_a3, table1, table2, table3
from repro.experiments.scales import title
from repro.spec import Cell, Classification, Decision, Experiment


def _runs() -> Iterator[tuple[str, Classification]]:
    """The name and a run of every architecture, and of what some of them start from."""
    for experiment in (table1, table2, table3):
        for cell in experiment.EXPERIMENT.cells:
            if isinstance(cell.run, Classification):
                yield cell.row, cell.run
                if isinstance(cell.run.pretrained, Classification):
                    yield cell.row, cell.run.pretrained
    for experiment in (figure_a1, figure_a3):
        for cell in experiment.EXPERIMENT.cells:
            if isinstance(cell.run, Classification):
                name = cell.row if experiment is figure_a1 else f"NesT-T, {cell.row}, {cell.column}"
                yield name, cell.run


def _cells() -> tuple[Cell, ...]:
    cells, seen = list[Cell](), set[object]()
    for name, run in _runs():
        counted = price.counted(run)
        if counted in seen:
            continue
        seen.add(counted)
        group = f"{title(run.dataset)}, {counted.image_size} px"
        row = f"{name} ({group})"
        cells += [
            Cell(group=group, row=row, column="#Params", run=counted, metric="parameters"),
            Cell(group=group, row=row, column="GMACs", run=counted, metric="macs"),
        ]
    return tuple(sorted(cells, key=lambda cell: cell.group))


EXPERIMENT = Experiment(
    name="table_a1",
    place="Table A1",
    title="Architectures",
    caption=(
        "GMACs are multiply-adds of the forward pass of one image, in 10⁹. Heads of the classes of "
        "each data set."
    ),
    cells=_cells(),
    headings=("", "Architecture"),
    decisions=(
        Decision("heads, order and depth of the hierarchies of NesT", "as in the official code",
                 "as printed in Table A1", "the authors agree that the table has them wrong "
                 "(official issue 2)"),
    ),
)  # fmt: skip
