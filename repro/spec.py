"""Runs of every kind, and experiments: their cells, claims and decisions.

Values only; this module imports neither torch nor pandas.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from repro.core.identity import SpecError, Value, canonical, difference
from repro.core.recipe import AdversarialRecipe, CropRule, Evaluation, Model, Recipe, Resize, Split
from repro.core.run import RUN_KINDS, R, Run, dataset_of, from_json, to_json, to_line, with_seeds
from repro.kinds import (
    TIMM,
    Attribution,
    Baseline,
    Ceiling,
    Classification,
    Explanation,
    Generation,
    Localization,
    Profiling,
    Sign,
    TopTap,
    Traversal,
)

__all__ = [
    "RUN_KINDS",
    "SCALES",
    "TIMM",
    "VERDICT_SCALES",
    "AdversarialRecipe",
    "Attribution",
    "Baseline",
    "Ceiling",
    "Cell",
    "Cited",
    "Claim",
    "Classification",
    "CropRule",
    "Decision",
    "Evaluation",
    "Experiment",
    "Explanation",
    "Generation",
    "Localization",
    "MinEffect",
    "Model",
    "PaperValue",
    "Place",
    "Profiling",
    "R",
    "Recipe",
    "Resize",
    "Run",
    "Scale",
    "Sign",
    "SpecError",
    "Split",
    "TopTap",
    "Traversal",
    "Value",
    "canonical",
    "dataset_of",
    "difference",
    "from_json",
    "our_choices",
    "to_json",
    "to_line",
    "with_seeds",
]

Scale = Literal["paper", "proxy", "demo", "smoke"]
SCALES: tuple[Scale, ...] = ("paper", "proxy", "demo", "smoke")
VERDICT_SCALES: tuple[Scale, ...] = ("paper", "proxy")  # at which claims are judged


@dataclass(frozen=True)
class PaperValue:
    """A number as the paper prints it, and where. `starred`: printed with a *, or cited from where
    it is."""

    value: float
    place: str
    starred: bool = False


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a table: the run that measures it (seeds are varied) and the paper's value.

    `sources` says where each value of the run's recipe is from; one that begins with 'our choice'
    is a value that the paper leaves open.
    """

    row: str
    column: str
    run: Run
    group: str = ""
    paper: PaperValue | None = None
    published: PaperValue | None = None  # what others measured with the same weights
    sources: tuple[tuple[str, str], ...] = ()
    metric: str = "top1"
    training_fraction: float = 1.0  # of the training done when it is measured
    panel: str = ""  # of a figure, or the columns of a table that belong together
    control: bool = False  # ours, not the paper's
    # Where the run at a scale is not the one that derives from `run`.
    proxy: Run | None = None
    demo: Run | None = None
    scales: tuple[Scale, ...] = SCALES  # that it may have; `run` is at the first of them

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of the recipe that are our choice."""
        return our_choices(self.sources)

    @property
    def training(self) -> Classification:
        """The run, of a cell that is known to be trained."""
        return Classification.narrow(self.run)


@dataclass(frozen=True)
class Cited:
    """What others published of a method that the paper compares with and that is not trained here.

    `source`: where, and under which protocol.
    """

    row: str
    column: str
    value: float
    source: str


def our_choices(sources: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Of the values with these sources, those that are our choice."""
    return tuple(name for name, why in sources if why.startswith("our choice"))


Place = tuple[str, ...]  # of a cell in its experiment: (row, column) or (row, column, panel)


@dataclass(frozen=True)
class MinEffect:
    """The minimum effect that a claim requires, and the reason for its size.

    points: a difference in the metric's unit; it is the paper's, so it applies at paper scale only.
    A negative one is a margin, for claims such as 'matches'. ratio: above / below.
    spreads: a difference in standard deviations over seeds.
    """

    size: float
    unit: Literal["points", "ratio", "spreads"]
    why: str


@dataclass(frozen=True)
class Claim:
    """A quotation of the paper and the comparison that tests it.

    Every cell of `above` has to exceed every cell of `below` by the minimum effect.

    Without `below`, the minimum effect is a number that the cells of `above` must exceed.

    `quote` is exact, with ' ... ' for omitted words, and without citations. A claim of the kind
    'difference' compares two differences of cells: above[0] - below[1] exceeds below[0] - above[1].
    `controls` are pairs of cells: if the first of a pair does not exceed the second, the claim is
    not judged. `scales`: where the comparison applies.
    """

    quote: str
    place: str
    tested: str
    above: tuple[Place, ...]
    below: tuple[Place, ...]
    min_effect: MinEffect | None = None
    kind: Literal["order", "difference"] = "order"
    controls: tuple[tuple[Place, Place], ...] = ()
    scales: tuple[Scale, ...] = VERDICT_SCALES

    @property
    def places(self) -> tuple[Place, ...]:
        """Every cell that the claim is judged by."""
        return (*self.above, *self.below, *(place for pair in self.controls for place in pair))


@dataclass(frozen=True)
class Decision:
    """Something the paper leaves open beside recipes: what was chosen, instead of what, and why."""

    question: str
    chosen: str
    instead: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table, figure or panel. `cells` are at paper scale; the other scales derive from them.

    Of an item that is ours and not the paper's, they may be at proxy scale only.
    """

    name: str
    place: str  # in the paper, as a heading has it
    title: str
    caption: str  # what holds at paper scale
    at_proxy: str = ""  # what holds at proxy scale, where that is not what holds of most items
    cells: tuple[Cell, ...]
    data: str = ""  # the part of the title that names the paper's data
    best: Literal["column", "row"] = "column"  # among which cells the best is in bold
    representative_rows: tuple[str, ...] = ()  # one for each family, for a first look
    starred: str = ""  # what the * means
    headings: tuple[str, str] = ("", "Method")  # of groups and rows; '' for no groups
    # lines: columns are numbers on the x axis, rows are lines. bars: rows are the groups on the
    # x axis, columns the bars of each. scatter: the columns are y and x. One plot a panel.
    # trees, maps: pictures that runs store, of the rows in `picture_rows`.
    plot: Literal["", "lines", "bars", "scatter", "trees", "maps"] = ""
    x: Literal["", "steps", "epochs"] = ""  # what columns count of a run; '': something else
    x_label: str = ""
    y_label: str = ""
    picture_rows: tuple[str, ...] = ()
    pictures: tuple[int, ...] = ()  # indices of a run's stored pictures
    num_traced_classes: int = 0  # classes whose path down the tree is drawn
    claims: tuple[Claim, ...] = ()
    decisions: tuple[Decision, ...] = ()
    seeds: int = 0  # at proxy scale, unless it is said; 0: as many as the scale has
    cited: tuple[Cited, ...] = ()
    has_gaps: bool = False  # our copy of the paper lacks some of its numbers

    @property
    def rows(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.column for cell in self.cells))
