"""What the report shows, as values: all texts are plain, and escaped where they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from repro.render.claims import Note
from repro.spec import Decision, Scale

CellKind = Literal["paper", "here", "difference", "published", "none"]


@dataclass(frozen=True)
class TableCell:
    """A cell as it is shown. `evidence`: the index of its evidence in the block, or -1."""

    text: str
    kind: CellKind
    evidence: int = -1
    is_best: bool = False


@dataclass(frozen=True)
class TableRow:
    name: str
    cells: tuple[TableCell, ...]


@dataclass(frozen=True)
class RowGroup:
    """Rows that belong together; `name` is '' in a table without groups."""

    name: str
    rows: tuple[TableRow, ...]


@dataclass(frozen=True)
class Table:
    headings: tuple[str, ...]  # of the columns that name a row
    columns: tuple[str, ...]
    groups: tuple[RowGroup, ...]


@dataclass(frozen=True)
class SeedValue:
    """A seed of a cell: its run, and its value as text, with the interval if it has one."""

    run: str
    status: str
    value: str


@dataclass(frozen=True)
class CellEvidence:
    """Everything behind a number but the runs themselves, which cells share."""

    place: tuple[str, ...]  # item, row, panel if it has one, column
    unit: str
    value: str
    paper: str  # its number, and where it is printed
    formula: str
    seeds: tuple[SeedValue, ...]
    recipe: tuple[tuple[str, str, str, bool], ...]  # name, value, source, whether it is our choice
    claims: tuple[int, ...]  # indices in the block
    command: str


@dataclass(frozen=True)
class RunEvidence:
    """A run with a result: where its files are and how they were made."""

    seed: int
    state: str
    folder: str
    sha256: str
    about: tuple[tuple[str, str], ...]  # its provenance
    site: str
    starts_from: str
    patch: str


@dataclass(frozen=True)
class ClaimTest:
    """A test of a claim and its verdict. `cells`: the evidence that it compares, by index."""

    quote: str
    place: str
    tested: str
    verdict: str
    text: str
    cells: tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """An item at a scale, as far as it follows from the results alone."""

    item: str
    scale: Scale
    heading: str
    table: Table
    notes: tuple[Note, ...]
    figure: str  # SVG; '' if it has none, or no result to show in it
    csv: str  # '' if it was not asked for
    cells: tuple[CellEvidence, ...]
    num_measured: int  # cells with a number
    runs: Mapping[str, RunEvidence]
    claims: tuple[ClaimTest, ...]
    budgets: Mapping[str, Sequence[str]]  # by quote: how verdicts change with the training length
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Missing:
    """What has no result: of a row, or of all rows of a block."""

    item: str
    place: str  # of the item in the paper
    scale: Scale
    row: str
    num_runs: int
    price: str


@dataclass(frozen=True)
class PlacedBlock:
    """A block in the report. The indices of its cells and claims there begin at these numbers."""

    block: Block
    first_cell: int
    first_claim: int
    missing: Missing | None


@dataclass(frozen=True)
class Section:
    """An item of the paper at each scale that is shown."""

    item: str
    place: str
    title: str
    blocks: tuple[PlacedBlock, ...]


@dataclass(frozen=True)
class Plot:
    """A metric of a training: the mean over seeds, and the band around it, in units of the plot."""

    metric: str
    last: str  # its last value
    about: str  # the plot in words
    line: str  # 'x,y x,y ...', of a polyline
    band: str  # of a polygon
    end: tuple[str, str]


@dataclass(frozen=True)
class TrainingCurve:
    """The trainings that differ by seed alone."""

    label: str
    runs: tuple[str, ...]
    length: str  # 'epochs 1 to 4'
    plots: tuple[Plot, ...]


@dataclass(frozen=True)
class CurveGroup:
    """The trainings of an item at a scale, without those of earlier items."""

    item: str
    heading: str
    curves: tuple[TrainingCurve, ...]
    note: str


@dataclass(frozen=True)
class LedgerEntry:
    """Values of recipes that the paper does not state, with one source."""

    values: tuple[tuple[str, str], ...]
    rows: str
    source: str
    is_ours: bool


@dataclass(frozen=True)
class LedgerSection:
    item: str
    heading: str
    decisions: tuple[Decision, ...]
    entries: tuple[LedgerEntry, ...]


@dataclass(frozen=True)
class OutdatedGroup:
    """Results in one state, for one reason."""

    state: str
    changed: tuple[str, ...]  # modules, or data
    why: str
    waiver: str
    runs: tuple[str, ...]


@dataclass(frozen=True)
class ScaleCounts:
    """How much there is at a scale."""

    scale: Scale
    cells: int
    measured: int
    verdicts: Mapping[str, int]


@dataclass(frozen=True)
class Report:
    """The whole report."""

    paper: str  # its short name
    title: str
    digest: str  # over the digests of all results that are shown
    num_results: int
    sections: tuple[Section, ...]
    counts: tuple[ScaleCounts, ...]
    curves: tuple[CurveGroup, ...]
    ledger_title: str  # of the decisions that are common to items
    common_decisions: tuple[Decision, ...]
    ledger: tuple[LedgerSection, ...]
    missing: tuple[Missing, ...]
    devices: Mapping[Scale, str]  # on which prices are
    outdated: tuple[OutdatedGroup, ...]
    prices: Mapping[str, str]  # by run
    runs: Mapping[str, RunEvidence]
    warnings: tuple[str, ...]

    @property
    def blocks(self) -> list[PlacedBlock]:
        return [placed for section in self.sections for placed in section.blocks]
