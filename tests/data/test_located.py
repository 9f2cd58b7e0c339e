"""The boxes of a dataset's images, in their order, whatever form both are in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from repro.data import composed, datasets, prepare
from repro.data.augment.crops import decode
from repro.data.imagenet import ground_truth, reader
from repro.data.imagenet.photos import Photos
from repro.data.images import DataError, Images, OfficialSplit, Split
from repro.interpret.box_iou import targets

SMOKE = ("imagenet-smoke", "imagenetv2-smoke")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in SMOKE:
        prepare.prepare(name, folder)
    return folder


def photos(name: str, data: Path) -> Photos:
    found: Images | Photos = datasets.load(name, "test", data)
    assert isinstance(found, Photos)
    return found


@pytest.mark.parametrize("split", ["test", "validation"])  # of both official files
def test_boxes_of_composed_pictures_cover_the_object_at_every_scale(split: Split) -> None:
    images = datasets.load(composed.SINGLES, split)
    truth = ground_truth.load(composed.SINGLES, split, images, Path())
    assert len(truth) == len(images.labels)
    assert truth.labels.tolist() == images.labels.tolist()
    official: OfficialSplit = "test" if split == "test" else "train"
    source = datasets.load(composed.SINGLES, official)
    places = {picture.numpy().tobytes(): place for place, picture in enumerate(source.pixels)}
    for number in range(0, len(truth), 501):
        at = places[images.pixels[number].numpy().tobytes()]
        x0, y0, x1, y1 = composed.boxes(official)[at].tolist()
        exact = [x0 * 3.5, y0 * 3.5, (x1 + 1) * 3.5, (y1 + 1) * 3.5]  # 224 of 64 px
        assert targets(truth)[number][0].tolist() == [int(side) for side in exact]


@pytest.mark.parametrize("name", SMOKE)
def test_boxes_of_smoke_photographs_hold_what_is_bright(name: str, data: Path) -> None:
    images = photos(name, data)
    truth = ground_truth.load(name, "test", images, data)
    assert truth.labels.tolist() == images.labels.tolist()
    for number in range(len(images)):
        picture = decode(images.read(number)).amax(0)
        height, width = picture.shape
        assert truth.sizes[number].tolist() == [width, height]
        ((x0, y0, x1, y1),) = truth.of(number).tolist()
        bright = (picture > 128).float()
        assert bright[y0:y1, x0:x1].sum() >= 0.98 * bright.sum()
        assert bright[:, x0:x1].any(0).float().mean() > 0.5  # and it is no larger than need be


def test_the_two_smoke_sets_have_other_images_and_one_order_of_classes(data: Path) -> None:
    first, second = (photos(name, data) for name in SMOKE)
    assert first.classes == second.classes
    assert first.labels.equal(second.labels)
    bytes_ = [{one.read(n) for n in range(len(one))} for one in (first, second)]
    assert not bytes_[0] & bytes_[1]


def test_imagenet_v2_is_numbered_by_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images of each of three of the thousand classes, in wsolevaluation's folders."""
    for label in (0, 7, 970):
        folder = tmp_path / "imagenetv2" / str(label)
        folder.mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (20, 10), (label % 256, number, 0)).save(folder / f"{number}.jpeg")
    with pytest.raises(DataError, match="6 test images, but imagenetv2 has 10,000"):
        datasets.load("imagenetv2", "test", tmp_path)
    small = reader.PhotoSet({"test": 6}, {"test": (0, 2)}, numbered=True)
    monkeypatch.setitem(reader.PHOTO_SETS, "imagenetv2", small)
    images = photos("imagenetv2", tmp_path)
    assert images.labels.tolist() == [0, 0, 7, 7, 970, 970]
    assert images.classes == reader.synsets()
    boxes = tmp_path / "wsol" / "val"
    boxes.mkdir(parents=True)
    names = [f"val2/{label}/{number}.jpeg" for label in (970, 0, 7) for number in range(2)]
    for file, line in (
        ("class_labels", "{name},{label}"),
        ("image_sizes", "{name},20,10"),
        ("localization", "{name},1,2,{x1},9"),
    ):
        lines = [
            line.format(name=n, label=n.split("/")[1], x1=3 + place)
            for place, n in enumerate(names)
        ]
        (boxes / f"{file}.txt").write_text("\n".join(lines) + "\n")
    truth = ground_truth.load("imagenetv2", "test", images, tmp_path)
    assert truth.ids == ("0/0", "0/1", "7/0", "7/1", "970/0", "970/1")
    assert truth.boxes[:, 2].tolist() == [5, 6, 7, 8, 3, 4]
    wrong = replace(images, labels=torch.zeros(6, dtype=torch.int64))
    with pytest.raises(DataError, match="7/0: class 7, but the images have 0; take boxes and"):
        ground_truth.load("imagenetv2", "test", wrong, tmp_path)


def test_a_set_that_is_not_there_says_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"put ImageNetV2 .* there as <class number>/"):
        datasets.load("imagenetv2", "test", tmp_path)
    assert datasets.splits("imagenetv2") == ("test",)
    with pytest.raises(DataError, match="imagenetv2 has no train split, only 'test'"):
        datasets.load("imagenetv2", "train", tmp_path)


def test_sizes_that_kaggle_does_not_tell_are_the_images_own(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = photos("imagenet-smoke", data)
    names = [images.name(n).rpartition("/")[2].partition(".")[0] for n in range(len(images))]
    wnids = reader.synsets()
    lines = ["ImageId,PredictionString"]
    lines += [
        f"{name},{wnids[label]} 1 2 30 40 "
        for name, label in zip(names, images.labels.tolist(), strict=True)
    ]
    (tmp_path / ground_truth.SOLUTION).write_text("\n".join(lines) + "\n")
    truth = ground_truth.load("imagenet", "test", images, tmp_path)
    assert truth.sizes[3].tolist() == [*decode(images.read(3)).shape[:0:-1]]
    assert np.unique(truth.boxes, axis=0).tolist() == [[1, 2, 30, 40]]


@pytest.mark.parametrize(
    ("name", "split"), [("glyphs", "test"), ("imagenet-smoke", "train"), ("imagenet", "train")]
)
def test_a_set_without_boxes_says_so(name: str, split: Split, data: Path) -> None:
    images: Images | Photos = datasets.load("glyphs", "test")
    if name != "glyphs":
        images = photos("imagenet-smoke", data)
    with pytest.raises(DataError, match=f"{name}.*: no ground-truth boxes"):
        ground_truth.load(name, split, images, data)
