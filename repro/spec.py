"""What is run and what is drawn from it: Run, Recipe, Model, Experiment, and how a run is named.

Values only. Both halves of the project meet here, so this module imports neither torch nor pandas.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache, cached_property
from itertools import chain
from types import UnionType
from typing import (
    Any,
    ClassVar,
    ForwardRef,
    Literal,
    Self,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from repro import records

Scale = Literal["paper", "proxy", "smoke"]
SCALES: tuple[Scale, ...] = ("paper", "proxy", "smoke")

Split = Literal["train", "test", "fit", "validation"]
Resize = Literal["bilinear", "bicubic", "aliased"]  # aliased: bilinear without antialias, as TF's

Value = str | int | float | bool | None | tuple["Value", ...]


class SpecError(ValueError):
    """A stored spec that this code does not understand, or that differs from the current one."""


@dataclass(frozen=True)
class Model:
    """An architecture: a name that `timm.create_model` knows, and its options, sorted by name."""

    name: str
    options: tuple[tuple[str, Value], ...] = ()

    @classmethod
    def of(cls, name: str, **options: Value) -> Self:
        return cls(name, tuple(sorted(options.items())))

    def updated(self, **options: Value) -> Model:
        """This model with some options added or replaced."""
        return Model.of(self.name, **{**dict(self.options), **options})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The training hyper-parameters of a run.

    A default means 'not used': a recipe lists what it does. `batch_size` is global and `lr` the
    absolute peak, so the number of GPUs does not enter. The schedule is a linear warm-up from
    `warmup_lr`, then a cosine to exactly `final_lr`, by steps (official `libml/utils.py`).
    """

    epochs: int
    batch_size: int  # images per optimiser step, over all devices; even, because mixing pairs them
    lr: float  # peak
    optimizer: Literal["adamw", "sgd"] = "adamw"  # adamw: betas 0.9, 0.999; sgd: Nesterov 0.9
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    decay_biases: bool = True  # False: tensors with fewer than two dimensions are not decayed
    no_decay: tuple[str, ...] = ()  # parameters whose name contains one of these are not decayed
    drop_path: float = 0.0  # stochastic depth of the last layer, growing linearly from 0
    image_size: int = 0  # px, side of a training crop; 0: images are as large as they are stored
    crop_area: tuple[float, ...] = ()  # least and largest share of the image in a random crop
    crop_resize: Resize = "bilinear"
    crop_padding: int = 0  # pixels per side
    flip: bool = False
    repeats: int = 1  # 'repeated augmentation': so often each image of an epoch, of fewer images
    augmentation: Literal["authors", "timm"] = "authors"  # whose operations, magnitudes and mixing
    color_jitter: float = 0.0  # strength, after RandAugment, with SimCLR v2's greyscale and flip
    randaugment_layers: int = 0
    randaugment_magnitude: float = 9.0  # of 10
    randaugment_std: float = 0.5
    randaugment_prob: float = 0.5  # of each layer
    erase_prob: float = 0.0
    mixup_alpha: float = 0.0
    cutmix: bool = False
    mix_prob: float = 1.0  # of a pair of images being mixed at all
    label_smoothing: float = 0.0  # applied by the mixing only, as the official code does
    smooth_unmixed: bool = False  # where nothing is mixed as well, as timm does
    warmup_lr: float = 0.0  # where the warm-up begins
    final_lr: float = 0.0  # where the cosine ends
    clip_norm: float = 0.0  # of the whole gradient; 0: not clipped
    evaluate_every_epochs: int = 0  # 0: at the end only


@dataclass(frozen=True, kw_only=True)
class AdversarialRecipe:
    """The hyper-parameters of a generator and a discriminator that are trained at the same time.

    Every step, one gradient of each, at the same weights. Rates are constant. Adam for both.
    """

    steps: int
    batch_size: int  # real images, and generated ones, per step, over all devices
    lr: float  # the generator's
    discriminator_lr: float
    betas: tuple[float, float] = (0.0, 0.99)
    loss: Literal["logistic", "hinge"] = "logistic"  # logistic: the non-saturating one
    r1_weight: float = 0.0  # of the squared norm of the discriminator's gradient at real images
    flip: bool = False
    ema_decay: float = 0.0  # of the average of the generator's weights, which is what is evaluated
    ema_start: int = 0  # the step from which it is an average; before, it is the weights themselves
    evaluate_every_steps: int = 0  # 0: at the end only


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How an image of any size becomes a test input: resized, then its centre cropped."""

    image_size: int  # px, side of the input
    crop_fraction: float = 0.875  # of the resized shorter side; 0: the whole image, squeezed square
    resize: Resize = "bicubic"
    normalize: tuple[float, ...] = ()  # mean and std of every channel; (): those of the dataset


@dataclass(frozen=True, kw_only=True)
class Run(ABC):
    """Everything that determines one result. Equal runs are one run, whichever table asks."""

    kind: ClassVar[str]  # the module of repro.tasks that carries it out
    seed: int = 0

    @property
    @abstractmethod
    def slug(self) -> str:
        """What a reader should see of the run in its id."""

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """What a result has at least, unless it diverged; a result may have more."""

    @property
    def evaluations(self) -> Iterable[int]:
        """The steps after which `metrics.jsonl` has them as well, in their order."""
        return ()

    @property
    def starts_from(self) -> Run | None:
        """The run whose weights this one needs: to begin with, or to measure by."""
        return None

    @property
    def is_drawn(self) -> bool:
        """Whether chance has a part in the result, so that more seeds say more."""
        return True

    @cached_property
    def id(self) -> str:
        """A readable slug and 8 hex digits over the class and the non-default fields, recursively.

        Adding a field with a default therefore renames nothing.
        """
        digest = hashlib.sha256(_dumps(canonical(self)).encode()).hexdigest()
        return f"{self.slug}-{digest[:8]}"


def _with_ends(*metrics: str) -> tuple[str, ...]:
    """The metrics, each with the ends of its interval."""
    return tuple(f"{name}{end}" for name in metrics for end in ("", "_low", "_high"))


TIMM = "timm:"  # before the tag of released weights


@dataclass(frozen=True, kw_only=True)
class Classification(Run):
    """Train a classifier and test it. Metrics: `top1`, `top5` in percent, `loss`; untested,
    `train_loss`.

    One that starts from another is fine-tuned: the classifier is new where the classes are others.
    With zero epochs, weights are only tested: released ones, where `pretrained` is 'timm:<tag>'.
    """

    kind: ClassVar[str] = "classification"
    model: Model
    dataset: str
    recipe: Recipe
    train_split: Split = "train"  # 'fit' and 'validation' are the two parts of 'train'
    test_split: Split | Literal["none"] = "test"
    pretrained: Classification | str | None = None  # whose weights are the initial ones
    evaluation: Evaluation | None = None  # None: test images are as they are stored

    def __post_init__(self) -> None:
        name = self.pretrained
        if isinstance(name, str) and (self.recipe.epochs or not name.startswith(TIMM)):
            raise SpecError(
                f"pretrained: {name!r}; a name is '{TIMM}<tag>', of released weights that are "
                "tested with zero epochs"
            )

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("train_loss",) if self.test_split == "none" else ("top1", "top5", "loss")

    @property
    def starts_from(self) -> Run | None:
        return None if isinstance(self.pretrained, str) else self.pretrained

    @property
    def release(self) -> str:
        """timm's tag of the released weights that are tested; '' for others."""
        name = self.pretrained if isinstance(self.pretrained, str) else ""
        return name.removeprefix(TIMM)

    @property
    def is_drawn(self) -> bool:
        return self.recipe.epochs > 0

    @property
    def slug(self) -> str:
        held_out = "" if self.test_split in ("test", "none") else f"-{self.test_split}"
        trained = f"{self.recipe.epochs}ep" if self.recipe.epochs else "released"
        parts = f"{self.model.name}-{self.dataset}{held_out}-{trained}-s{self.seed}"
        return _plain(parts)


@dataclass(frozen=True, kw_only=True)
class Generation(Run):
    """Train a generator of images, and measure how its images are distributed beside real ones.

    Metrics, by Inception's features: `fid`, `inception_score`; where those of each real image are
    kept, also `kid`, `precision`, `recall`. By the features of a classifier that was trained here,
    they begin with `proxy_`, and `proxy_frechet` stands for `fid`, since no other features are
    Inception's.
    """

    kind: ClassVar[str] = "generation"
    generator: Model
    discriminator: Model
    dataset: str  # of squares, as large as the generator's images
    recipe: AdversarialRecipe
    samples: int = 50_000  # that are generated for an evaluation
    reference_split: Literal["train", "test"] = "train"  # the real images they are compared with
    features: Classification | Literal["inception"] = "inception"

    @property
    def metrics(self) -> tuple[str, ...]:
        by_inception = self.features == "inception"
        return ("fid", "inception_score") if by_inception else ("proxy_frechet", "proxy_score")

    @property
    def evaluations(self) -> Iterable[int]:
        steps = self.recipe.steps
        every = max(1, self.recipe.evaluate_every_steps or steps)
        return chain(range(every, steps, every), [steps])

    @property
    def starts_from(self) -> Run | None:
        return self.features if isinstance(self.features, Classification) else None

    @property
    def slug(self) -> str:
        return _plain(f"{self.generator.name}-{self.dataset}-{self.recipe.steps}st-s{self.seed}")


@dataclass(frozen=True, kw_only=True)
class Profiling(Run):
    """Measure a model. Metrics: `parameters`, and `macs`, multiply-adds of a forward pass an image.

    On a device also `forward_images_per_second`, `train_images_per_second` (forward, backward and
    AdamW), and on a GPU `forward_peak_bytes`, `train_peak_bytes` of memory.
    """

    kind: ClassVar[str] = "profiling"
    model: Model
    classes: int  # 0: of a generator, which makes images of latents
    image_size: int  # px
    device: str = ""  # '': only counted; 'cpu' (one thread); else part of a GPU's name, as 'H100'
    precision: Literal["fp32", "bf16"] = "fp32"
    batch_size: int = 1
    attention: Literal["", "fused", "plain"] = ""  # plain: with all scores made

    @property
    def metrics(self) -> tuple[str, ...]:
        speeds = ("forward_images_per_second", "train_images_per_second") if self.device else ()
        on_gpu = self.device not in ("", "cpu")
        peaks = ("forward_peak_bytes", "train_peak_bytes") if on_gpu else ()
        return ("parameters", "macs", *speeds, *peaks)

    @property
    def is_drawn(self) -> bool:
        return False

    @property
    def slug(self) -> str:
        where = f"{self.device}-{self.precision}-b{self.batch_size}" if self.device else "counted"
        where += f"-{self.attention}" * bool(self.attention)
        return _plain(f"{self.model.name}-{self.image_size}px-{self.classes}-{where}")


Attribution = Literal["cam", "grad_cam_pp", "rollout", "gradient_rollout"]
Baseline = Literal["whole image", "centre box"]
Sign = Literal["ascent", "literal"]
TopTap = Literal["input", "norm"]


@dataclass(frozen=True, kw_only=True)
class Explanation(Run):
    """A run that asks a trained classifier what it sees; the classifier has the run's seed."""

    classifier: Classification | None = None  # None: a baseline, which asks nobody
    dataset: str
    split: Split = "test"
    image_size: int = 0  # px, to whose square images are squeezed; 0: as they are stored

    @property
    def trained(self) -> Classification | None:
        """The classifier at this run's seed."""
        return self.classifier and replace(self.classifier, seed=self.seed)

    @property
    def starts_from(self) -> Run | None:
        return self.trained if self.trained and self.trained.recipe.epochs else None

    @property
    def is_drawn(self) -> bool:
        return self.classifier is not None and self.classifier.is_drawn

    @property
    def slug(self) -> str:
        model = f"-{self.classifier.model.name}" if self.classifier else ""
        return _plain(f"{self.method}{model}-{self.dataset}-s{self.seed}")

    @property
    @abstractmethod
    def method(self) -> str:
        """How it is asked."""


@dataclass(frozen=True, kw_only=True)
class Localization(Explanation):
    """Find objects by a classifier that learned their classes only: boxes of attribution maps.

    Metrics, percent of images, each also as `..._low` and `..._high`, a 95 % bootstrap interval:
    `gt_known` with the threshold that is best on `tuning`; `max_box_acc`, `max_box_acc_v2` with
    those that are best on these very images; `gt_known_fixed` with .2 of the largest;
    `gt_known_iou10` to `..90`. Of a classifier also `top1` (without an interval), `top1_error`,
    `top1_error_oracle`, `pointing`, `energy`; and on the first `probed` images `deletion`,
    `insertion` (areas under the probability) and `randomised` (rank correlation with the maps of a
    classifier whose weights are shuffled).
    """

    kind: ClassVar[str] = "localization"
    attribution: Attribution | Baseline
    tuning: str = "imagenetv2"  # the dataset on which the threshold is chosen
    tuning_split: Split = "test"
    probed: int = 0

    @property
    def metrics(self) -> tuple[str, ...]:
        boxes = ("gt_known", "gt_known_fixed", "max_box_acc", "max_box_acc_v2")
        names = [*boxes, *(f"gt_known_iou{iou}" for iou in range(10, 100, 10))]
        if self.classifier is None:
            return _with_ends(*names)
        names += ["top1_error", "top1_error_oracle", "pointing", "energy"]
        probes = ["deletion", "insertion", "randomised"] if self.probed else []
        return ("top1", *_with_ends(*names, *probes))

    @property
    def method(self) -> str:
        return self.attribution


@dataclass(frozen=True, kw_only=True)
class Traversal(Explanation):
    """Follow GradCAT from the root to a leaf, for the class of every object, and see what is there.

    Metrics, percent of objects, each also as `..._low` and `..._high`, a 95 % bootstrap interval:
    `quadrant`, `leaf` (whether the path enters one that holds a part of the object), `leaf_most`
    (the largest part), and of each `..._chance`; `undecided`. On the first `ablated` pictures
    `faithful` (rank correlation of the leaves' values with what each leaf's absence costs the
    logit), `best_leaf` (whether the path ends in the leaf that costs most), and what ablation by
    itself would find: `ablation_quadrant` and `ablation_leaf` (whether the costliest one holds a
    part of the object).
    """

    kind: ClassVar[str] = "traversal"
    objects: Literal[1, 4] = 4  # in a picture; four of them are composed, one a quadrant
    pictures: int = 0  # the first of them; 0: all, of one object each
    sign: Sign = "ascent"
    top_tap: TopTap = "input"
    tap_below: Literal["output", "input"] = "output"
    ablated: int = 0

    @property
    def metrics(self) -> tuple[str, ...]:
        names = [f"{hit}{chance}" for hit in ("quadrant", "leaf", "leaf_most")
                 for chance in ("", "_chance")]  # fmt: skip
        if self.ablated:
            names += ["faithful", "best_leaf", "ablation_quadrant", "ablation_leaf"]
        return ("undecided", *_with_ends(*names))

    @property
    def method(self) -> str:
        return f"gradcat-{self.sign}-{self.top_tap}"


def dataset_of(run: Run) -> str:
    """The dataset that the run is about; '' if it is about none."""
    return getattr(run, "dataset", "")


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower())


RUN_KINDS: dict[str, Any] = {
    kind.__name__: kind for kind in (Classification, Generation, Profiling, Localization, Traversal)
}


# --- run identity --------------------------------------------------------------------------------


def canonical(value: object, *, defaults: bool = False) -> Any:
    """`value` as JSON types. Without `defaults`, fields that have their default are left out.

    Numbers that are equal are written alike (1.0 as 1), as equal runs are one run.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, tuple):
        return [canonical(item, defaults=defaults) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        written = {"class": kind.__name__}
        for name, default in _fields(kind):
            inner = getattr(value, name)
            if defaults or default is MISSING or inner != default:
                written[name] = canonical(inner, defaults=defaults)
        return written
    raise TypeError(f"a spec holds plain values; {value!r} is a {type(value).__name__}")


@cache
def _fields(kind: type[Any]) -> tuple[tuple[str, object], ...]:
    """The fields of a dataclass with their defaults, MISSING where there is none."""
    return tuple((field.name, field.default) for field in fields(kind))


def _dumps(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def to_json(run: Run) -> str:
    """The whole run, defaults included, as it is kept in `spec.json`."""
    return records.encode(canonical(run, defaults=True), indent=1, sort_keys=True) + "\n"


def to_line(run: Run) -> str:
    """The same as `from_json` reads it too, in one line."""
    return records.encode(canonical(run, defaults=True))


def from_json(text: str | bytes) -> Run:
    """The run that `to_json` wrote, or `to_line`. SpecError for anything else."""
    data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    try:
        run = _revive(records.decode(data, object))
        if not isinstance(run, Run):
            raise SpecError("not the spec of a run")
        assert run.id  # and with it all that a name is made of
    except records.Damaged as error:
        raise SpecError(f"not a spec: {error}") from error
    return run


def _revive(stored: object) -> Any:
    if isinstance(stored, list):
        return tuple(_revive(item) for item in stored)
    if not isinstance(stored, dict):
        return stored
    parts = (Model, Recipe, AdversarialRecipe, Evaluation)
    known = {part.__name__: part for part in parts} | RUN_KINDS
    name = stored.get("class")
    kind = known.get(name) if isinstance(name, str) else None
    if kind is None:
        raise SpecError(f"a spec of class {name!r:.80} is not known here")
    values = {name: _revive(value) for name, value in stored.items() if name != "class"}
    return kind(**_checked(kind, values))


def _checked(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The values of a dataclass's fields. SpecError for an unknown, missing or wrong one."""
    hints = _hints(kind)
    if unknown := values.keys() - {field.name for field in fields(kind)}:
        raise SpecError(f"{kind.__name__} has no field {sorted(unknown)[0]!r:.80}")
    for field in fields(kind):
        if field.name not in values and field.default is MISSING:
            raise SpecError(f"{kind.__name__} has no {field.name!r}")
        if field.name in values and not _fits(values[field.name], hints[field.name]):
            value = f"{values[field.name]!r:.80}"
            raise SpecError(f"{kind.__name__}: {field.name} cannot be {value}")
    return values


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of a type that a spec's field may have."""
    if isinstance(hint, str | ForwardRef):  # Value is made of itself
        return _fits(value, Value)
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in inner)
    if origin in (Union, UnionType):
        return any(_fits(value, choice) for choice in inner)
    if origin is tuple:
        items = value if isinstance(value, tuple) else None
        kinds = inner[:1] * len(items or ()) if inner[-1] is Ellipsis else inner
        return items is not None and len(items) == len(kinds) and all(map(_fits, items, kinds))
    if hint is float:
        return type(value) in (int, float)  # 1.0 is written as 1
    return type(value) is hint


def difference(stored: object, run: Run) -> str | None:
    """The first field in which a stored spec differs from `run`, as 'field: stored, now current'.

    A field that the stored spec does not have counts as having its default, since a field may be
    added without renaming runs. None if there is no difference.
    """
    return _difference("", stored, canonical(run, defaults=True), _defaults(run))


def _difference(place: str, stored: object, current: object, default: object) -> str | None:
    if isinstance(stored, dict) and isinstance(current, dict):
        for name in sorted(stored.keys() | current.keys()):
            inner = default.get(name, MISSING) if isinstance(default, dict) else MISSING
            found = _difference(
                f"{place}.{name}".lstrip("."),
                stored.get(name, inner),
                current.get(name, MISSING),
                inner,
            )
            if found:
                return found
        return None
    if stored == current and isinstance(stored, bool) == isinstance(current, bool):
        return None
    shown = ["absent" if v is MISSING else f"{json.dumps(v):.80}" for v in (stored, current)]
    return f"{place}: {shown[0]} stored, {shown[1]} now"


def _defaults(value: object) -> object:
    """The defaults of a dataclass and of the dataclasses in it, in the shape of `canonical`."""
    if not is_dataclass(value) or isinstance(value, type):
        return MISSING
    return {
        f.name: canonical(f.default, defaults=True)
        if f.default is not MISSING
        else _defaults(getattr(value, f.name))
        for f in fields(value)
    }


# --- experiments ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class PaperValue:
    """A number as the paper prints it, and where. `starred`: printed with the paper's *."""

    value: float
    place: str
    starred: bool = False


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a table: the run that measures it (seeds are varied) and the paper's value.

    `sources` says where each value of the run's recipe is from; one that begins with 'our choice'
    is a value that the paper leaves open.
    """

    group: str
    row: str
    column: str
    run: Run
    paper: PaperValue | None = None
    published: PaperValue | None = None  # what others measured with the same weights
    sources: tuple[tuple[str, str], ...] = ()
    metric: str = "top1"
    at: float = 1.0  # share of the training after which it is measured
    panel: str = ""  # of a figure, or the columns of a table that belong together
    proxy: Run | None = None  # where the run at proxy scale, as all are derived, would ask nothing

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of the recipe that are our choice."""
        return chosen(self.sources)

    @property
    def training(self) -> Classification:
        """The run, of a cell that is known to be trained."""
        assert isinstance(self.run, Classification), self.run.id
        return self.run


@dataclass(frozen=True)
class Cited:
    """What others published of a method that the paper compares with and that is not trained here.

    `source`: where, and under which protocol.
    """

    row: str
    column: str
    value: float
    source: str


def chosen(sources: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Of the values with these sources, those that are our choice."""
    return tuple(name for name, why in sources if why.startswith("our choice"))


Place = tuple[str, ...]  # of a cell in its experiment: (row, column) or (row, column, panel)


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper as an assertion: each of `above` is larger than each of `below`.

    `margin` (in the metric's unit) has to lie between them; below zero, so much may be missing,
    which is how 'matches' is said. Of the kind 'difference', two of each are compared by what lies
    between them: above[0] - below[1] is larger than below[0] - above[1].
    """

    sentence: str
    place: str
    above: tuple[Place, ...]
    below: tuple[Place, ...]
    margin: float = 0.0
    kind: Literal["order", "difference"] = "order"


@dataclass(frozen=True)
class Decision:
    """Something the paper leaves open beside recipes: what was chosen, instead of what, and why."""

    question: str
    chosen: str
    instead: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table, figure or panel. `cells` are at paper scale; the other scales derive from them."""

    name: str
    place: str  # 'Table 1'
    title: str
    caption: str  # what holds at paper scale
    cells: tuple[Cell, ...]
    data: str = ""  # the part of the title that names the paper's data
    showcase: tuple[str, ...] = ()  # rows that stand for their families, for a first look
    starred: str = ""  # what the paper's * means
    headings: tuple[str, str] = ("Arch. base", "Method")  # of groups and rows; '' for no groups
    # lines: columns are numbers on the x axis, rows are lines. bars: rows are the groups on the
    # x axis, columns the bars of each. scatter: the columns are y and x. One plot a panel.
    # trees, maps: pictures that runs keep, of the rows in `drawn`.
    plot: Literal["", "lines", "bars", "scatter", "trees", "maps"] = ""
    x: Literal["", "steps", "epochs"] = ""  # what columns count of a run; '': something else
    x_label: str = ""
    y_label: str = ""
    drawn: tuple[str, ...] = ()
    pictures: tuple[int, ...] = ()  # which of the pictures of a run, by their place
    traced: int = 0  # classes whose way down the tree is drawn
    claims: tuple[Claim, ...] = ()
    decisions: tuple[Decision, ...] = ()
    cited: tuple[Cited, ...] = ()

    @property
    def rows(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.column for cell in self.cells))


R = TypeVar("R", bound=Run)


def with_seeds(run: R, seeds: int) -> list[R]:
    """The run at seeds 0 to `seeds` - 1; once, where chance has no part in it."""
    return [replace(run, seed=seed) for seed in range(seeds if run.is_drawn else 1)]
