"""The bridge from the command line to a classifier that explains a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro import records, results, spec
from repro.data import own_picture
from repro.data.own_picture import RGB8, PictureError
from repro.launch import trained
from repro.results import ResultsError
from repro.spec import TIMM, Classification, Traversal

if TYPE_CHECKING:
    from torch import Tensor, nn

    from repro.data.images import RGB
    from repro.tasks.localization import Method


@dataclass(frozen=True)
class Explained:
    """What a classifier makes of a picture, in the form in which runs keep it."""

    trees: dict[str, Any] | None  # None: the classifier is no NesT, or see the note
    note: str  # why a NesT has no tree
    maps: list[dict[str, Any]]  # of each class
    method: str  # of the maps, as a title has it
    classes: tuple[str, ...]


@dataclass(frozen=True)
class _Set:
    """What has to be known of the data that the classifier was trained on."""

    classes: tuple[str, ...]
    mean: RGB
    std: RGB
    side: int  # px


def explain(
    image: Path,
    run: Classification,
    weights: Path | None,
    asked: Sequence[str],
    count: int,
    root: Path,
    data: Path,
) -> Explained:
    """GradCAT, if it is NesT, and maps of a picture, which is squeezed to the model's square.

    `asked`: classes by name or number; none: the `count` most probable ones. Raises ResultsError
    for a picture that is none, a class that is not known, or weights that are not here; what needs
    no torch is looked at first.
    """
    picture = _picture(image)
    path = weights
    if run.release:
        trained.check_released(run, weights)
    else:
        path = trained.weights(root, run, weights)

    import torch

    from repro.data import augment
    from repro.interpret.gradcat import NoTree
    from repro.interpret.taps import InterpretError
    from repro.tasks import NotFinite, explained, traversal
    from repro.train import device

    about = _set(run, data)
    pixels = _pixels(picture, about.side)
    here = device.choose()
    with trained.one_line(run):
        net = explained.load_classifier(run, len(about.classes), path).to(here)
    names = tuple(explained.described(about.classes))
    x = augment.normalize(pixels.to(here), about.mean, about.std)
    try:
        probable = explained.logits_of(net, x).softmax(1)
        chosen = _numbers(asked, names, about.classes)
        top = probable.topk(min(count, len(names))).indices[0].tolist()
        classes = torch.tensor([chosen or top], device=here)
        trees, note = None, ""
        kept = {"pixels": pixels.permute(0, 2, 3, 1).numpy(), "names": names}
        if "nest" in run.model.name:
            reading = Traversal(classifier=run, dataset=run.dataset)
            try:
                found = traversal.trees_of(reading, net, x, classes, probable)
                trees = kept | {"shows": [[]], **found}
            except NoTree as error:
                note = f"no tree: {error}"
        method, maps = _maps(net, x, classes[0])
    except (InterpretError, NotFinite) as error:
        raise ResultsError(f"{run.id} cannot be asked: {error}") from error
    best = names[int(probable.argmax())]
    shown = [
        kept | {"maps": one, "shows": [""], "predicted": [best], "boxes": [], "counts": _none()}
        for one in maps
    ]
    return Explained(trees, note, shown, method, tuple(names[c] for c in classes[0].tolist()))


def _none() -> Any:
    import numpy as np

    return np.zeros(1, np.int64)


def _maps(net: nn.Module, x: Tensor, classes: Tensor) -> tuple[str, list[Any]]:
    """The map (1, h, w) of each class, and the method's title.

    Gradient rollout where a class token attends to every patch, CAM where the last map is averaged,
    and HiResCAM of the last map elsewhere.
    """
    from repro.interpret.cam import NoCAM, hires_cam
    from repro.interpret.layouts import prefix_tokens
    from repro.tasks.localization import METHODS

    def maps(method: Method) -> list[Any]:
        return [method(net, x, one).cpu().numpy() for one in classes[:, None]]

    if prefix_tokens(net):
        return "Gradient rollout", maps(METHODS["gradient_rollout"])
    try:
        return "CAM", maps(METHODS["cam"])
    except NoCAM:
        return "HiResCAM", maps(hires_cam)


def _numbers(words: Sequence[str], names: Sequence[str], wnids: Sequence[str]) -> list[int]:
    found = [_number(word, names, wnids) for word in words]
    for place, number in enumerate(found):
        if number in found[:place]:
            raise ResultsError(f"class {words[place]!r} is asked for twice: {names[number]}")
    return found


def _number(word: str, names: Sequence[str], wnids: Sequence[str]) -> int:
    """The class that a word names: its number, its wnid, its name or a part that one name has."""
    if word.isdecimal() and int(word) < len(names):
        return int(word)
    exact = [n for n, pair in enumerate(zip(names, wnids, strict=True)) if word in pair]
    found = exact or [n for n, name in enumerate(names) if word.lower() in name.lower()]
    if len(found) == 1:
        return found[0]
    some = ", ".join(f"{n} {names[n]}" for n in found[:3])
    what = f"may be {some}" if found else f"is none of the {len(names)} classes, such as {names[0]}"
    raise ResultsError(f"class {word!r} {what}; name it in full, or by its number")


def _picture(path: Path) -> RGB8:
    """The picture as its owner sees it, uint8 (H, W, 3). ResultsError names the file."""
    try:
        return own_picture.read(records.content(path, own_picture.MOST_BYTES))
    except PictureError as error:
        raise ResultsError(f"{path}: {error}") from error
    except (OSError, records.Damaged) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ResultsError(f"{path}: {reason}; name an image file") from error


def _pixels(picture: RGB8, side: int) -> Tensor:
    """The picture as uint8 (1, 3, side, side)."""
    import torch

    from repro.data.crops import CentreCrop

    whole = torch.from_numpy(picture).permute(2, 0, 1)
    return CentreCrop(side, 0.0, "bilinear")(whole, [])[None]


def _set(run: Classification, data: Path) -> _Set:
    from repro.data import datasets, imagenet, photos
    from repro.data.images import DataError
    from repro.tasks.classification import normalization

    how = run.evaluation
    side = how.image_size if how else 0
    if run.dataset.split("-")[0] == "imagenet" and not run.dataset.endswith("smoke"):
        return _Set(imagenet.synsets(), *normalization(how, photos.MEAN, photos.STD), side)
    try:
        images = datasets.load(run.dataset, "test", data)
    except DataError as error:
        raise ResultsError(str(error)) from error
    if not side:
        side = images.pixels.shape[-1]
    return _Set(images.classes, *normalization(how, images.mean, images.std), side)


def run_of(name: str, root: Path) -> Classification:
    """The run of a folder in results, or of the weights 'timm:<tag>' that Table 2 tests.

    Raises ResultsError for a run that classifies nothing, or a tag that Table 2 does not have.
    """
    if name.startswith(TIMM):
        from repro.experiments import table2

        for cell in table2.EXPERIMENT.cells:
            if isinstance(cell.run, Classification) and cell.run.pretrained == name:
                return cell.run
        known = ", ".join(tag for tag, *_ in table2.RELEASES.values())
        raise ResultsError(f"{name} is none of the released weights of Table 2: {known}")
    run = results.stored_run(root / name)
    if isinstance(run, Classification):
        return run
    if isinstance(run, spec.Explanation) and run.trained:
        return run.trained
    raise ResultsError(f"{name} is no classifier; `repro status table2` lists runs that are")
