"""The datasets: what is embedded is what the scripts made, and a damaged file is never believed."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import pickle
import shutil
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from repro.data import atlas, catalogue, cifar, composed, cues, datasets
from repro.data.atlas import EMBEDDED
from repro.data.datasets import DataError, load, names, splits
from repro.data.imagenet import reader, resized
from repro.data.images import OfficialSplit, fingerprint
from repro.data.prepare import DEBIAN_FASHION_MNIST, prepare

OFFICIAL: tuple[OfficialSplit, ...] = ("train", "test")
SPLITS: tuple[datasets.Split, ...] = ("train", "test", "fit", "validation")
SCRIPTS = Path(__file__).parents[2] / "scripts"

# Results name their data by these; a change here is another dataset.
GOLDEN = {
    ("fashion-mnist-6k", "train"): "7e6b351b42f0f22a",
    ("fashion-mnist-6k", "test"): "d7509d1f4aeb9df5",
    ("fashion-mnist-6k", "fit"): "1d4c9ea1fca00e1b",
    ("fashion-mnist-6k", "validation"): "ad802a97415f2382",
    ("glyphs", "train"): "60c673a7861bcfe1",
    ("glyphs", "test"): "5b3843dd27a06e3e",
    ("glyphs", "fit"): "567b860cbc47ce58",
    ("glyphs", "validation"): "46c5bec58015dd6f",
}


def manifest(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((EMBEDDED / f"{name}.json").read_text(encoding="utf-8"))
    return content


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- embedded -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "split"), GOLDEN)
def test_embedded_sets_are_the_ones_that_results_name(name: str, split: datasets.Split) -> None:
    images = load(name, split)
    assert images.fingerprint == GOLDEN[name, split]
    assert images.fingerprint == fingerprint(images.pixels.numpy(), images.labels.numpy())
    assert images.pixels.shape == (len(images.labels), 3, 32, 32)
    assert images.pixels.dtype == torch.uint8
    assert images.labels.dtype == torch.int64


@pytest.mark.parametrize("name", ["fashion-mnist-6k", "glyphs"])
def test_embedded_splits_are_balanced(name: str) -> None:
    for split, total in zip(SPLITS, (6000, 2000, 5000, 1000), strict=True):
        images = load(name, split)
        classes = len(images.classes)
        assert images.labels.bincount().tolist() == [total // classes] * classes


@pytest.mark.parametrize("name", ["fashion-mnist-6k", "glyphs"])
def test_mean_and_std_are_those_of_the_train_split(name: str) -> None:
    images = load(name, "train")
    pixels = images.pixels.double() / 255
    assert images.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=5e-5)
    assert images.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=5e-5)


def test_embedded_sets_are_grey_padded_and_distinct() -> None:
    fashion = load("fashion-mnist-6k", "train").pixels
    assert (fashion[:, 0] == fashion[:, 1]).all()
    assert (fashion[:, 0] == fashion[:, 2]).all()
    assert fashion.sum() == fashion[:, :, 2:-2, 2:-2].sum()
    assert len({image.numpy().tobytes() for image in fashion}) == 6000


def test_the_repository_stays_small() -> None:
    sizes = {path.name: path.stat().st_size for path in EMBEDDED.iterdir()}
    assert sum(size for name, size in sizes.items() if name.startswith("fashion")) < 6_000_000
    assert sum(size for name, size in sizes.items() if name.startswith("glyphs")) < 4_000_000
    assert sizes["cifar10-order.npy"] == 128 + 4 * 60_000
    assert set(sizes) - {"cifar10-order.npy"} == {
        *(f"{name}{end}" for name in atlas.ATLASES for end in (".json", "-train.png", "-test.png")),
        "fashion-mnist-6k.LICENSE",
    }
    assert "Zalando SE" in (EMBEDDED / "fashion-mnist-6k.LICENSE").read_text(encoding="utf-8")


def test_glyphs_are_tested_on_typefaces_that_were_never_trained_on() -> None:
    typefaces = manifest("glyphs")["typefaces"]
    families = {
        split: {family for face in faces for family in face["family"].split(", ")}
        for split, faces in typefaces.items()
    }
    assert not families["train"] & families["test"]
    packages = {
        split: {p for t in faces for p in t["packages"]} for split, faces in typefaces.items()
    }
    assert not packages["train"] & packages["test"]
    faces = {split: sum(len(face["faces"]) for face in faces) for split, faces in typefaces.items()}
    assert faces == {"train": 60, "test": 20}
    assert all(face["licence"] for split in typefaces.values() for face in split)


def test_every_glyph_is_whole_and_stands_out() -> None:
    """A margin of the ground's own grey all round; a character of the stated contrast and size."""
    for split in OFFICIAL:
        pixels = load("glyphs", split).pixels[:, 0].int()
        ground = pixels[:, :1, :1]
        margin = torch.cat([pixels[:, [0, -1]].flatten(1), pixels[:, :, [0, -1]].flatten(1)], dim=1)
        assert (margin == ground[:, 0]).all()
        contrast = (pixels - ground).abs()
        assert contrast.flatten(1).max(1).values.min() > 40  # a thin stroke is a mixture
        ink = contrast > 0
        extents = [ink.any(axis).sum(1) for axis in (1, 2)]
        assert torch.maximum(*extents).min() >= 8
        assert torch.maximum(*extents).max() <= 29


def test_glyph_classes_are_a_hundred_different_characters() -> None:
    classes = load("glyphs", "train").classes
    assert len(set(classes)) == 100
    assert all(len(character) == 1 for character in classes)
    for confusable in ("0Oo", "1Il|", "Cc", "Ss", "Vv", "Xx×", "Zz", "AΑАΛ", "aα", "BΒВ"):
        assert sum(character in confusable for character in classes) <= 1


@pytest.mark.parametrize("name", ["fashion-mnist-6k", "glyphs"])
def test_fit_and_validation_share_out_the_train_split(name: str) -> None:
    train, _, fit, validation = (load(name, split) for split in SPLITS)

    def rows(images: datasets.Images) -> Counter[bytes]:
        pairs = zip(images.pixels, images.labels, strict=True)
        return Counter(pixels.numpy().tobytes() + bytes([label]) for pixels, label in pairs)

    assert rows(fit) + rows(validation) == rows(train)
    assert not rows(fit) & rows(validation)
    assert fit.mean == validation.mean == train.mean


@pytest.mark.parametrize("damage", ["missing", "truncated", "altered", "manifest"])
def test_a_damaged_atlas_is_refused(damage: str, tmp_path: Path) -> None:
    for path in EMBEDDED.glob("glyphs*"):
        shutil.copy(path, tmp_path)
    sheet = tmp_path / "glyphs-test.png"
    if damage == "missing":
        sheet.unlink()
    elif damage == "truncated":
        sheet.write_bytes(sheet.read_bytes()[:-5000])
    elif damage == "altered":
        pixels = np.array(Image.open(sheet))
        pixels[0, 0] ^= 1
        Image.fromarray(pixels).save(sheet)
    else:
        (tmp_path / "glyphs.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError) as error:
        atlas.load("glyphs", "test", tmp_path)
    assert ("glyphs.json" if damage == "manifest" else "glyphs-test.png") in str(error.value)
    assert_one_line(error.value)


# ---- the script that cuts, on idx files made here -----------------------------------------------


def write_idx(path: Path, array: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4) for n in array.shape)
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def small_fashion(tmp_path: Path) -> Path:
    """A Fashion-MNIST of 300 train and 200 test images; the train files gzipped, the others not."""
    random = np.random.default_rng(0)
    for prefix, count, end in (("train", 300, ".gz"), ("t10k", 200, "")):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = random.permutation(np.arange(count) % 10).astype(np.uint8)
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte{end}", images)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte{end}", labels)
    return tmp_path


def test_cutting_takes_the_named_images_unchanged(small_fashion: Path) -> None:
    cut = script("cut_fashion_mnist")
    output = small_fashion / "out"
    output.mkdir()
    cut.cut(small_fashion, output, {"train": 20, "test": 10}, seed=3)
    images, labels = cut.read(small_fashion, "train")
    loaded = atlas.load("fashion-mnist-6k", "train", output)
    taken = cut.select(labels, 20, "fashion-mnist-6k 3 train")
    assert loaded.labels.tolist() == labels[taken].tolist() == sorted([*range(10)] * 20)
    assert np.array_equal(loaded.pixels[:, 1, 2:-2, 2:-2], images[taken])
    digest = hashlib.sha256(taken.astype("<i8").tobytes()).hexdigest()
    about = json.loads((output / "fashion-mnist-6k.json").read_text(encoding="utf-8"))
    assert about["indices_sha256"]["train"] == digest
    assert atlas.load("fashion-mnist-6k", "test", output).labels.bincount().eq(10).all()


def test_cutting_again_gives_the_same_bytes_and_another_seed_others(small_fashion: Path) -> None:
    cut = script("cut_fashion_mnist")
    written = []
    for index, seed in enumerate((0, 0, 1)):
        output = small_fashion / str(index)
        output.mkdir()
        cut.cut(small_fashion, output, {"train": 20, "test": 10}, seed=seed)
        written.append({path.name: path.read_bytes() for path in output.iterdir()})
    assert written[0] == written[1]
    assert written[0]["fashion-mnist-6k-train.png"] != written[2]["fashion-mnist-6k-train.png"]


def test_the_selection_is_the_same_everywhere() -> None:
    cut = script("cut_fashion_mnist")
    taken = cut.select(np.arange(1000) % 10, 2, "fashion-mnist-6k 0 train")
    assert taken.tolist() == [
        0,
        800,
        121,
        391,
        592,
        832,
        223,
        543,
        404,
        834,
        335,
        355,
        26,
        636,
        117,
        577,
        338,
        568,
        209,
        629,
    ]
    with pytest.raises(ValueError, match="100 images of class 0, but 101"):
        cut.select(np.arange(1000) % 10, 101, "key")


def test_the_embedded_subset_is_cut_from_the_official_files() -> None:
    """Compared with every full Fashion-MNIST on this machine; `make test` works without one."""
    cut, about = script("cut_fashion_mnist"), manifest("fashion-mnist-6k")
    assert about["splits"]["train"]["per_class"] == cut.PER_CLASS["train"] == 600
    assert about["splits"]["test"]["per_class"] == cut.PER_CLASS["test"] == 200
    for folder in filter(Path.exists, [DEBIAN_FASHION_MNIST]):
        for split in OFFICIAL:
            images, labels = cut.read(folder, cut.PREFIX[split])
            taken = cut.select(labels, cut.PER_CLASS[split], f"fashion-mnist-6k {cut.SEED} {split}")
            digest = hashlib.sha256(taken.astype("<i8").tobytes()).hexdigest()
            assert digest == about["indices_sha256"][split]
            embedded = load("fashion-mnist-6k", split)
            assert np.array_equal(embedded.pixels[:, 0, 2:-2, 2:-2], images[taken])
            assert np.array_equal(embedded.labels, labels[taken])


# ---- CIFAR --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    prepare("cifar10-smoke", root)
    prepare("cifar100-smoke", root)
    return root


@pytest.fixture
def own_smoke(smoke: Path, tmp_path: Path) -> Path:
    """A copy of the smoke data that a test may damage."""
    shutil.copytree(smoke, tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(("name", "reference"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_cifar_is_read_as_torchvision_reads_it(
    name: str, reference: str, split: OfficialSplit, smoke: Path
) -> None:
    import torchvision.datasets as vision

    def md5(file: str) -> str:
        return hashlib.md5((root / base.base_folder / file).read_bytes()).hexdigest()

    base, root = getattr(vision, reference), smoke / f"{name}-smoke"
    lists = {
        key: [[f, md5(f)] for f, _ in getattr(base, key)] for key in ("train_list", "test_list")
    }
    meta = {**base.meta, "md5": md5(base.meta["filename"])}
    theirs = type("Smoke", (base,), {**lists, "meta": meta})(root, train=split == "train")
    ours = load(f"{name}-smoke", split, smoke)
    assert np.array_equal(ours.pixels.permute(0, 2, 3, 1), theirs.data)
    assert ours.labels.tolist() == theirs.targets
    assert list(ours.classes) == theirs.classes
    red, green, blue = ours.pixels.unbind(1)
    assert (red == 255 - blue).all()
    assert (green == red // 2).all()


def test_pickles_are_where_torchvision_puts_them() -> None:
    from torchvision.datasets import CIFAR10, CIFAR100

    for ours, theirs in ((cifar.CIFAR10, CIFAR10), (cifar.CIFAR100, CIFAR100)):
        assert ours.containers[theirs.base_folder] is cifar.PICKLES
        assert list(ours.train) == [file for file, _ in theirs.train_list]
        assert list(ours.test) == [file for file, _ in theirs.test_list]
        assert ours.meta == (theirs.meta["filename"], theirs.meta["key"])
        assert ours.names is not None
        assert len(ours.names) == ours.classes


def test_fashion_classes_are_torchvisions() -> None:
    from torchvision.datasets import FashionMNIST

    assert list(datasets.FASHION_CLASSES) == FashionMNIST.classes
    assert set(datasets.FASHION_MD5) == {f.removesuffix(".gz") for f, _ in FashionMNIST.resources}


def test_smoke_splits_are_balanced(smoke: Path) -> None:
    """Twenty images a split, of as many classes as that gives: a full-sized model is slow here."""
    for name, per_class, classes in (("cifar10-smoke", 2, 10), ("cifar100-smoke", 1, 20)):
        for split in OFFICIAL:
            images = load(name, split, smoke)
            assert images.labels.bincount().tolist() == [per_class] * classes
    assert load("cifar10-smoke", "fit", smoke).labels.bincount().tolist() == [1] * 10


@pytest.mark.parametrize("damage", ["missing", "truncated", "altered"])
def test_only_the_real_cifar_goes_under_its_name(damage: str, own_smoke: Path) -> None:
    folder = own_smoke / "cifar-10-batches-py"
    shutil.copytree(own_smoke / "cifar10-smoke" / "cifar-10-batches-py", folder)
    batch = folder / "data_batch_1"
    if damage == "missing":
        batch.unlink()
    elif damage == "truncated":
        batch.write_bytes(batch.read_bytes()[:1000])
    error = refused("cifar10", own_smoke)
    what = {"altered": "'data' is not 10,000 RGB images of 32x32 px"}.get(damage, damage[:8])
    assert f"{batch}: " in error
    assert what in error
    assert f"repro prepare cifar10 --data {own_smoke}" in error


def test_a_damaged_smoke_file_is_refused(own_smoke: Path) -> None:
    batch = own_smoke / "cifar10-smoke/cifar-10-batches-py/data_batch_3"
    good = batch.read_bytes()
    for damaged in (b"", good[:-1000], b"no pickle at all", pickle.dumps([1], protocol=2)):
        batch.write_bytes(damaged)
        assert str(batch) in refused("cifar10-smoke", own_smoke)
    content = pickle.loads(good)
    for key, value in (
        ("data", content["data"][:, :100]),
        ("data", content["data"].view(np.int8)),
        ("labels", [10] * 4),
    ):
        batch.write_bytes(pickle.dumps({**content, key: value}, protocol=2))
        assert str(batch) in refused("cifar10-smoke", own_smoke)
    batch.write_bytes(
        pickle.dumps({"data": content["data"][:2], "labels": content["labels"][:2]}, protocol=2)
    )
    assert "'data' is not 4 RGB images" in refused("cifar10-smoke", own_smoke)


class Attack:
    """Pickles into a call of what it is given."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        function, *arguments = self.call
        return function, tuple(arguments)


def test_a_pickle_cannot_run_anything(own_smoke: Path) -> None:
    import builtins
    import os

    mark = own_smoke / "it-ran"
    batch = own_smoke / "cifar10-smoke/cifar-10-batches-py/data_batch_1"
    attacks = [
        Attack(os.system, f"touch {mark}"),
        Attack(builtins.eval, f"open({str(mark)!r}, 'w')"),
        Attack(os.mkdir, str(mark)),
        Attack(np.load, str(mark)),
        Attack(np.dtype, "O"),
        np.array([Attack(os.mkdir, str(mark))], dtype=object),
    ]
    for attack in attacks:
        for protocol in (0, 2, 4):
            batch.write_bytes(pickle.dumps({"data": attack, "labels": [0]}, protocol=protocol))
            error = refused("cifar10-smoke", own_smoke)
            assert str(batch) in error
            assert not mark.exists()


def test_a_pickle_of_python_2_is_read_as_cifars_are() -> None:
    """The real files hold the array's bytes as a Python 2 string, which Python 3 cannot write."""
    body = bytes(range(256)) * 12  # one image
    written = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\n"
        b"q\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01"
        b"\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00"
        + body
        + b"tbU\x06labelsq\x08]q\x09K\x07au."
    )
    batch = cifar.CIFAR10.batches[0]._replace(images=1)
    (record,) = cifar.PICKLES.decode(batch, [written])
    assert record.tobytes() == b"\x07" + body
    # The same file is what numpy itself would read.
    assert pickle.loads(written, encoding="latin1")["data"].tobytes() == body


# ---- Fashion-MNIST, names, messages -------------------------------------------------------------


@pytest.mark.parametrize("end", ["", ".gz"])
def test_another_fashion_mnist_is_refused(end: str, small_fashion: Path, tmp_path: Path) -> None:
    raw = tmp_path / "root" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    path = raw / f"t10k-images-idx3-ubyte{end}"
    write_idx(path, np.zeros((10_000, 28, 28), np.uint8))
    error = refused("fashion-mnist", tmp_path / "root", "test")
    assert f"{path}: truncated or altered" in error
    path.write_bytes(path.read_bytes()[:-50])
    assert str(path) in refused("fashion-mnist", tmp_path / "root", "test")
    path.unlink()
    assert "t10k-images-idx3-ubyte.gz: missing" in refused(
        "fashion-mnist", tmp_path / "root", "test"
    )


@pytest.mark.parametrize("content", [b"", b"\0\0\x08", b"\0\0\x08\x01\0\0\0\5abcd", b"\0\0\x0d\0"])
def test_an_idx_file_must_be_as_long_as_it_says(content: bytes) -> None:
    with pytest.raises(DataError, match="not an idx file, or of the wrong length"):
        datasets.parse_idx(Path("x"), content, "step")


def test_an_unknown_name_gets_the_nearest_match() -> None:
    for wrong, near in (("cifar-10", "cifar10"), ("glyph", "glyphs"), ("fashion", "fashion-mnist")):
        with pytest.raises(DataError, match=f"unknown dataset {wrong}: did you mean {near}\\?"):
            load(wrong, "train")
    with pytest.raises(DataError, match="the datasets are cifar10, cifar100"):
        load("~~~~", "train")
    known = {*cifar.CIFARS, "fashion-mnist", *atlas.ATLASES, composed.SINGLES, *cues.NAMES}
    assert set(names()) == known | {*reader.PHOTO_SETS, *resized.RESIZED}


def test_a_set_that_is_not_embedded_asks_for_its_folder() -> None:
    for name in set(names()) - set(catalogue.EMBEDDED):
        split = splits(name)[0]
        with pytest.raises(DataError, match="--data DIR or REPRO_DATA"):
            load(name, split)


def test_an_unknown_split_is_not_taken_for_another() -> None:
    with pytest.raises(ValueError, match="unknown split val"):
        load("glyphs", "val")  # type: ignore[call-overload]


def refused(name: str, root: Path, split: datasets.Split = "train") -> str:
    with pytest.raises(DataError) as error:
        load(name, split, root)
    assert_one_line(error.value)
    return str(error.value)


def assert_one_line(error: DataError) -> None:
    assert "\n" not in str(error)
    assert "; " in str(error)  # what is wrong; the next step
