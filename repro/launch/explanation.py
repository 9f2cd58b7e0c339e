"""`repro explain`: explain a picture with a classifier. Imports torch only when needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro import paper, results
from repro.core import records
from repro.data import user_image
from repro.data.user_image import RGB8, ImageError
from repro.launch import trained_models
from repro.results import ResultsError
from repro.spec import TIMM, Classification, Traversal

if TYPE_CHECKING:
    from torch import Tensor, nn

    from repro.data.images import RGB
    from repro.tasks.localization import Method


@dataclass(frozen=True)
class Explained:
    """The explanations of a picture, in the format that runs store."""

    trees: dict[str, Any] | None  # None: the classifier has no tree, perhaps see `note`
    note: str  # why a hierarchical classifier has no tree
    maps: list[dict[str, Any]]  # one per class
    method: str  # of the maps, for a title
    classes: tuple[str, ...]


@dataclass(frozen=True)
class _TrainingData:
    """The classes and the normalization of the classifier's training data."""

    classes: tuple[str, ...]
    mean: RGB
    std: RGB
    side: int  # px


def explain(
    image: Path,
    run: Classification,
    weights: Path | None,
    class_words: Sequence[str],
    count: int,
    root: Path,
    data: Path,
) -> Explained:
    """GradCAT's tree, if there is one, and maps of a picture resized to the model's square input.

    `class_words`: classes by name or number; if empty, the `count` most probable ones. Raises
    ResultsError for an unreadable picture, an unknown class, or missing weights; checks that need
    no torch come first.
    """
    picture = _picture(image)
    path = weights
    if run.release:
        trained_models.check_released(run.release, weights)
    else:
        path = trained_models.weights(root, run, weights)

    import numpy as np
    import torch

    from repro.data.augment import augment
    from repro.interpret.gradcat import has_tree
    from repro.interpret.taps import InterpretError
    from repro.tasks import NotFinite, explanation
    from repro.train import device

    about = _training_data(run, data)
    pixels = _pixels(picture, about.side)
    here = device.choose()
    with trained_models.one_line(run):
        net = explanation.load_classifier(run, len(about.classes), path).to(here)
    names = tuple(explanation.class_descriptions(about.classes))
    x = augment.normalize(pixels.to(here), about.mean, about.std)
    try:
        probable = explanation.compute_logits(net, x).softmax(1)
        indices = _class_indices(class_words, names, about.classes)
        top = probable.topk(min(count, len(names))).indices[0].tolist()
        classes = torch.tensor([indices or top], device=here)
        common = {"pixels": pixels.permute(0, 2, 3, 1).numpy(), "names": names}
        tree, note = _tree(run, net, x, classes, probable) if has_tree(net) else (None, "")
        method, maps = _maps(net, x, classes[0])
    except (InterpretError, NotFinite) as error:
        raise ResultsError(f"{run.id} cannot be explained: {error}") from error
    best = names[int(probable.argmax())]
    no_boxes = {"boxes": [], "counts": np.zeros(1, np.int64)}
    map_arrays = [
        common | {"maps": one, "shows": [""], "predicted": [best], **no_boxes} for one in maps
    ]
    trees = tree and common | {"shows": [[]], **tree}
    return Explained(trees, note, map_arrays, method, tuple(names[c] for c in classes[0].tolist()))


def _tree(
    run: Classification, net: nn.Module, x: Tensor, classes: Tensor, probable: Tensor
) -> tuple[dict[str, Any] | None, str]:
    """The arrays of GradCAT's tree of each class; None and the reason if there is none."""
    from repro.interpret.gradcat import NoTree
    from repro.tasks import traversal

    reading = Traversal(classifier=run, dataset=run.dataset)
    try:
        return traversal.tree_arrays(reading, net, x, classes, probable), ""
    except NoTree as error:
        return None, f"no tree: {error}"


def _maps(net: nn.Module, x: Tensor, classes: Tensor) -> tuple[str, list[Any]]:
    """The map (1, h, w) of each class, and the method's title.

    Gradient rollout for models with a class token, CAM if the last feature map is averaged, and
    HiResCAM of the last feature map otherwise.
    """
    from repro.interpret.cam import NoCAM, hires_cam
    from repro.interpret.feature_maps import prefix_tokens
    from repro.tasks.localization import METHODS

    def maps(method: Method) -> list[Any]:
        return [method(net, x, one).cpu().numpy() for one in classes[:, None]]

    if prefix_tokens(net):
        return "Gradient rollout", maps(METHODS["gradient_rollout"])
    try:
        return "CAM", maps(METHODS["cam"])
    except NoCAM:
        return "HiResCAM", maps(hires_cam)


def _class_indices(words: Sequence[str], names: Sequence[str], wnids: Sequence[str]) -> list[int]:
    indices = [_class_index(word, names, wnids) for word in words]
    for place, index in enumerate(indices):
        if index in indices[:place]:
            raise ResultsError(f"duplicate class {words[place]!r}: {names[index]}")
    return indices


def _class_index(word: str, names: Sequence[str], wnids: Sequence[str]) -> int:
    """The class with this number, wnid or name, or the only one whose name contains the word."""
    if word.isdecimal() and int(word) < len(names):
        return int(word)
    exact = [n for n, pair in enumerate(zip(names, wnids, strict=True)) if word in pair]
    matches = exact or [n for n, name in enumerate(names) if word.lower() in name.lower()]
    if len(matches) == 1:
        return matches[0]
    some = ", ".join(f"{n} {names[n]}" for n in matches[:3])
    none = f"is none of the {len(names)} classes, such as {names[0]}"
    problem = f"is ambiguous: {some}" if matches else none
    raise ResultsError(f"class {word!r} {problem}; name it in full, or by its number")


def _picture(path: Path) -> RGB8:
    """The picture in display orientation, uint8 (H, W, 3). Raises ResultsError with the path."""
    try:
        return user_image.read(records.read_bytes(path, user_image.MAX_BYTES))
    except ImageError as error:
        raise ResultsError(f"{path}: {error}") from error
    except (OSError, records.Damaged) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ResultsError(f"{path}: {reason}; name an image file") from error


def _pixels(picture: RGB8, side: int) -> Tensor:
    """The picture as uint8 (1, 3, side, side)."""
    import torch

    from repro.data.augment.crops import CentreCrop

    whole = torch.from_numpy(picture).permute(2, 0, 1)
    return CentreCrop(side, 0.0, "bilinear")(whole, [])[None]


def _training_data(run: Classification, data: Path) -> _TrainingData:
    from repro.data import datasets
    from repro.data.imagenet import photos, reader
    from repro.data.images import DataError
    from repro.tasks.classification import normalization

    evaluation = run.evaluation
    side = evaluation.image_size if evaluation else 0
    if run.dataset.split("-")[0] == "imagenet" and not run.dataset.endswith("smoke"):
        mean, std = normalization(evaluation, photos.MEAN, photos.STD)
        return _TrainingData(reader.synsets(), mean, std, side)
    try:
        images = datasets.load(run.dataset, "test", data)
    except DataError as error:
        raise ResultsError(str(error)) from error
    if not side:
        side = images.pixels.shape[-1]
    mean, std = normalization(evaluation, images.mean, images.std)
    return _TrainingData(images.classes, mean, std, side)


def run_of(name: str, root: Path) -> Classification:
    """The classifier of a run in `root`, or of the released weights 'timm:<tag>' that the paper
    tests.

    Raises ResultsError for a run without a classifier, or an unknown tag.
    """
    if name.startswith(TIMM):
        releases = paper.current().releases()
        if test := releases.get(name.removeprefix(TIMM)):
            return test
        tags = ", ".join(releases)
        raise ResultsError(f"{name} is none of the released weights of the paper: {tags}")
    run = results.stored_run(root / name)
    if run.tested_classifier:
        return run.tested_classifier
    raise ResultsError(f"{name} is not a classifier; `repro status` lists runs")
