"""The verdict of every claim of an item, from the results of its cells: docs/verdicts.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from repro.core.cells import HOLE, LOST, Row, value_of, worst
from repro.core.columns import scaled_columns
from repro.core.evidence import Evidence, Training, required_margin
from repro.core.measures import ACCURACIES
from repro.core.numbers import number
from repro.core.verdict import MIN_SEEDS, NOMINAL, Interval, Judgement, Pair, Sample, Unit, judge
from repro.spec import Claim, Experiment, Place, Scale, SpecError

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["holds", "contradicted", "undecided", "not trained enough", "not run"]
VERDICTS: tuple[Verdict, ...] = (
    "holds",
    "contradicted",
    "undecided",
    "not trained enough",
    "not run",
)

NORMAL = 1.96  # standard errors in half a 95 % interval
SPEED_ERROR = 0.05  # our choice: the relative standard error of a single speed measurement

Full = tuple[str, str, str]  # row, column and panel of a cell


@dataclass(frozen=True)
class Side:
    """One side of a comparison: its name and its value for every seed."""

    name: str
    metric: str
    values: Sequence[float]
    lost: Sequence[str]  # states of the runs without a value
    n: int


@dataclass(frozen=True)
class JudgedClaim:
    """A claim and its verdict.

    `why`: the reason if there is no verdict. `above`, `below`, `effect` (in the unit of the minimum
    effect) and `interval` belong to the decisive pair.
    """

    claim: Claim
    verdict: Verdict
    why: str
    above: Side
    below: Side | None  # None: compared with a number
    effect: float | None
    interval: Interval | None
    unit: Unit
    size: float | None  # the minimum effect; None: only the direction is tested
    trainings: tuple[Training, ...]
    pairs: int
    where: str  # the part of row, column and panel that all compared cells share

    @property
    def is_tested(self) -> bool:
        """Whether the claim could have held."""
        return self.verdict in VERDICTS[:3] and not self.why


def judge_claims(experiment: Experiment, frame: pd.DataFrame, scale: Scale) -> list[JudgedClaim]:
    """The claims in order, without those about cells that the scale does not have.

    Empty for scales without verdicts. Raises SpecError for a claim about cells that the experiment
    does not have.
    """
    known_cells = {(cell.row, cell.column, cell.panel) for cell in experiment.cells}
    cells = {full(_place_of(cell)): cell for cell in frame.to_dict("records")}
    column_names, verdicts = scaled_columns(experiment, scale), []
    for claim in experiment.claims:
        places = set(map(full, claim.places))
        if unknown := places - known_cells:
            raise SpecError(
                f"{experiment.name}: a claim refers to {min(unknown)}, which is not a cell"
            )
        if places <= cells.keys() and scale in claim.scales:
            verdicts.append(
                _Case(claim, cells, scale, column_names, looks(experiment, scale)).judge()
            )
    return verdicts


def looks(experiment: Experiment, scale: Scale) -> int:
    """How often a claim may be judged: by docs/protocol.md after three seeds and, if undecided,
    after five, unless the item fixes the number of seeds."""
    return 2 if scale == "proxy" and not experiment.seeds else 1


def full(place: Place) -> Full:
    """(row, column, panel) of (row, column) or (row, column, panel)."""
    row, name, *panel = place
    return row, name, panel[0] if panel else ""


def _place_of(cell: Row) -> Place:
    return str(cell["row"]), str(cell["column"]), str(cell["panel"])


# --- one claim -----------------------------------------------------------------------------------

_Reason = tuple[Verdict, str]  # the verdict of a pair that cannot be judged, and why


@dataclass(frozen=True, eq=False)
class _Compared:
    """A pair of a claim: its places, its samples, and why it may not be judged."""

    above: tuple[Place, ...]
    below: tuple[Place, ...]
    pair: Pair
    reasons: Sequence[_Reason]


@dataclass(frozen=True)
class _Case:
    """A claim and the cells of its item at a scale."""

    claim: Claim
    cells: Mapping[Full, Row]
    scale: Scale
    column_names: Mapping[str, str]  # at this scale, where they differ
    looks: int

    def judge(self) -> JudgedClaim:
        """The verdict by the pairs that may be judged."""
        pairs = [self._compared(*places) for places in self._places()]
        min_effect, size = self.claim.min_effect, self._size()
        unit: Unit = min_effect.unit if min_effect else "points"
        judgement = judge(
            [None if p.reasons else p.pair for p in pairs], size or 0.0, unit, self.looks
        )
        verdict, why, decisive = _with_reason(judgement, pairs)
        effect = interval = None
        if not decisive.reasons:
            effect = decisive.pair.effect(unit)
            interval = decisive.pair.interval(unit, self.looks)
        sides = self._sides(decisive.above, decisive.below)
        trainings = self._trainings((*decisive.above, *decisive.below))
        where = ", ".join(self._shared())
        return JudgedClaim(self.claim, verdict, why, *sides, effect, interval, unit, size,
                           trainings, len(pairs), where)  # fmt: skip

    def _places(self) -> list[tuple[tuple[Place, ...], tuple[Place, ...]]]:
        """Every pair of `above` and `below`; for a difference, the two sums."""
        above, below = self.claim.above, self.claim.below
        if self.claim.kind == "difference":
            return [(above, below)]
        if not below:
            return [((a,), ()) for a in above]
        return [((a,), (b,)) for a in above for b in below]

    def _compared(self, above: tuple[Place, ...], below: tuple[Place, ...]) -> _Compared:
        pair = _pair(map(self._cell, above), map(self._cell, below))
        return _Compared(above, below, pair, self._reasons((*above, *below), pair))

    def _cell(self, place: Place) -> Row:
        return self.cells[full(place)]

    def _size(self) -> float | None:
        """The minimum effect at this scale; None where the paper's points do not apply."""
        min_effect = self.claim.min_effect
        if min_effect and min_effect.unit == "points" and self.scale != "paper":
            return None
        return min_effect.size if min_effect else 0.0

    def _reasons(self, places: Sequence[Place], pair: Pair) -> list[_Reason]:
        """Why the pair may not be judged."""
        reasons = [why for place in places if (why := self._defect(place))]
        if (
            not reasons
            and self._size() is None
            and self.claim.min_effect
            and self.claim.min_effect.size < 0
        ):
            reasons.append(("undecided", "its margin in points applies at paper scale only"))
        if not reasons and pair.contrast() is None:
            reasons.append(("undecided", "all seeds measured the same value"))
        return reasons or self._controls()

    def _defect(self, place: Place) -> _Reason | None:
        """Why a cell cannot be compared; None if it can."""
        cell, name = self._cell(place), self._name(place)
        if not cell["n"]:
            lost = [state for state in LOST if cell[state]]
            return (
                ("undecided", f"{name}: {worst(lost)}") if lost else ("not run", f"{name}: {HOLE}")
            )
        if cell["diverged"]:
            runs = cell["diverged"] + cell["n"]
            return "undecided", f"{cell['diverged']} of {runs} runs of {name} diverged"
        return _training_defect(cell, name) or _sample_defect(cell, name)

    def _controls(self) -> list[_Reason]:
        """Why an explanation is not judged: no positive control shows that it could be right."""
        places = (*self.claim.above, *self.claim.below)
        explains = any(self._cell(p)["evidence"].run.needs_control for p in places)
        if explains and not self.claim.controls:
            return [("undecided", "no positive control")]
        for place, floor in self.claim.controls:
            pair = _pair([self._cell(place)], [self._cell(floor)])
            if pair.p_greater(required_margin(self._cell(floor)["mean"])) > NOMINAL:
                names = f"{self._name(place)} is not well above {self._name(floor)}"
                return [("undecided", f"the positive control fails: {names}")]
        return []

    def _name(self, place: Place) -> str:
        """The part of a cell's place that the claim's other cells do not share, or all of it."""
        parts = self._shown(place)
        return ", ".join([part for part in parts if part not in self._shared()] or parts)

    def _shown(self, place: Place) -> list[str]:
        row, column, panel = full(place)
        return [part for part in (row, self.column_names.get(column, column), panel) if part]

    def _shared(self) -> list[str]:
        """The part of row, column and panel that all compared cells share."""
        places = [self._shown(place) for place in (*self.claim.above, *self.claim.below)]
        return [part for part in places[0] if all(part in place for place in places)]

    def _sides(self, above: Sequence[Place], below: Sequence[Place]) -> tuple[Side, Side | None]:
        """The sides: two cells, a cell and no cell (a number), or two differences of cells."""
        if self.claim.kind == "difference":
            return self._between(above[0], below[1]), self._between(below[0], above[1])
        return self._one(above[0]), self._one(below[0]) if below else None

    def _one(self, place: Place) -> Side:
        cell = self._cell(place)
        lost = [state for state in LOST for _ in range(cell[state])]
        name = ", ".join(part for part in self._shown(place) if part not in self._shared())
        values = cell["values"] if _is_stochastic(cell) else cell["values"][:1]
        return Side(name, cell["metric"], values, lost, len(values))

    def _between(self, first: Place, second: Place) -> Side:
        a, b = self._one(first), self._one(second)
        values = [fmean(a.values) - fmean(b.values)] if a.n and b.n else []
        return Side(f"{a.name} − {b.name}", a.metric, values, (*a.lost, *b.lost), min(a.n, b.n))

    def _trainings(self, places: Sequence[Place]) -> tuple[Training, ...]:
        trainings = (self._cell(place)["evidence"].training() for place in places)
        return tuple(dict.fromkeys(training for training in trainings if training))


def _with_reason(
    judgement: Judgement, pairs: Sequence[_Compared]
) -> tuple[Verdict, str, _Compared]:
    """The verdict, the most severe reason against one, and the decisive pair."""
    reasons = [(reason, pair) for pair in pairs for reason in pair.reasons]
    if judgement.word != "undecided" or not reasons:
        return judgement.word, "", pairs[judgement.decisive]
    (verdict, why), pair = max(reasons, key=lambda each: VERDICTS.index(each[0][0]))
    return verdict, why, pair


def _training_defect(cell: Row, name: str) -> _Reason | None:
    """A reason if the classifier is hardly above chance, where comparisons mean nothing."""
    evidence: Evidence = cell["evidence"]
    if evidence.classifier is None:
        return None
    accuracy, required = evidence.accuracy(), evidence.required_accuracy()
    if accuracy is None or required is None:
        return "undecided", f"the classifier accuracy of {name} is unknown"
    if accuracy >= required:
        return None
    texts = number(accuracy, "top1"), number(required, "top1")
    return "not trained enough", f"{name} has an accuracy of {texts[0]} %, below {texts[1]} %"


def _sample_defect(cell: Row, name: str) -> _Reason | None:
    """A reason if there are too few seeds, or no predictions for the error over images."""
    sample = sample_of(cell)
    if sample.is_stochastic and sample.n < MIN_SEEDS:
        return "undecided", f"{name} has {sample.n} of {MIN_SEEDS} required seeds"
    if cell["metric"] in ACCURACIES and sample.scores is None:
        return "undecided", f"the predictions of {name} are not stored"
    return None


def _pair(above: Iterable[Row], below: Iterable[Row]) -> Pair:
    return Pair(tuple(map(sample_of, above)), tuple(map(sample_of, below)))


def sample_of(cell: Row) -> Sample:
    """The measurements of a cell, with scores of images, an interval over images, or neither."""
    is_stochastic = _is_stochastic(cell)
    scores = cell["evidence"].scores
    if scores:
        return Sample(cell["values"], scores[0], scores[1], is_stochastic=is_stochastic)
    images = cell["evidence"].run.num_images(cell["metric"])
    resolution = 100 / images if images else 0.0
    return Sample(
        cell["values"], error=_error(cell), is_stochastic=is_stochastic, resolution=resolution
    )


def _is_stochastic(cell: Row) -> bool:
    """Whether another seed gives another value; chance levels are exact."""
    return bool(cell["is_stochastic"]) and not str(cell["metric"]).endswith("_chance")


def _error(cell: Row) -> float:
    """The standard error that more seeds do not lower, without scores of images."""
    low, high = value_of(cell, "low"), value_of(cell, "high")
    if low is not None and high is not None:
        return (high - low) / (2 * NORMAL)
    is_speed = cell["metric"].endswith("_images_per_second")
    return SPEED_ERROR * abs(cell["mean"]) if is_speed and cell["n"] else 0.0
