"""Whatever lies in a data folder: every reader of data/ and fidelity/ takes it, makes it anew, or
says in one line which file is wrong and what to do."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from repro import fidelity
from repro.cli import main
from repro.data import atlas, datasets, prepare
from repro.data.imagenet import devkit, ground_truth, reader, scan, tars, verify
from repro.data.imagenet.smoke_photos import make_tar
from repro.data.images import DataError
from repro.fidelity import load_statistics, weights
from repro.fidelity.features import inception
from tests.data.test_imagenet import write_devkit
from tests.fidelity.tiny import ABOUT, DIM, Tiny

PHOTOS, TARS, CROPS = "imagenet-smoke", "imagenet22k-smoke", "imagenet-smoke-64px"
IMAGE = "ILSVRC2012_val_00000001"
WNID = reader.synsets()[7]
XML = (
    "<annotation><size><width>9</width><height>9</height></size><object><name>{}</name><bndbox>"
    "<xmin>1</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>5</ymax></bndbox></object></annotation>"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with every kind of file that is read from one."""
    made = tmp_path_factory.mktemp("data")
    for name in ("cifar10-smoke", TARS, CROPS):
        prepare.prepare(name, made)
    for path in atlas.EMBEDDED.glob("glyphs*"):
        shutil.copy(path, made)
    fashion = made / datasets.FASHION_FOLDER
    fashion.mkdir(parents=True)
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (fashion / f"{name}.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x01\0"))
    write_devkit(made / devkit.ARCHIVE, ["n1", "n2"], ["n1", "n2"])
    (made / "wsol").mkdir()
    for name, numbers in (
        ("class_labels", "7"),
        ("image_sizes", "9,9"),
        ("localization", "1,1,5,5"),
    ):
        (made / f"wsol/{name}.txt").write_text(f"{IMAGE},{numbers}\n")
    (made / "xml").mkdir()
    (made / f"xml/{IMAGE}.xml").write_text(XML.format(WNID, 5))
    (made / "boxes.csv").write_text(f"ImageId,PredictionString\n{IMAGE},{WNID} 1 1 5 5\n")
    (made / "1.json").write_text('{"label": 3, "other": [1]}')
    (made / "1.cls").write_text("3")
    scanned(made)
    shutil.copytree(made / CROPS, made / "broken-off")
    statistics = fidelity.Statistics(np.zeros(DIM), np.eye(DIM), 9)
    fidelity.save_statistics(made / "statistics.npz", statistics, ABOUT, np.zeros((4, DIM)))
    referred(made)
    torch.save({"fc.weight": torch.zeros(2)}, made / weights.FILE)
    return made


def scanned(root: Path) -> None:
    folder = root / PHOTOS
    containers = scan.with_file_stats(folder, reader.find_containers(PHOTOS, "train", root))
    found = scan.scan(folder, containers, root / "scan.journal", "title")
    assert sum(len(part.length) for _, part in found) == 40


def labelled(root: Path, name: str) -> None:
    """A shard whose label this file is."""
    shard = root / "shard.tar"
    shard.write_bytes(make_tar({"1.jpeg": b"x", name: (root / name).read_bytes()}))
    try:
        tars.labelled_images(shard, shard.stat().st_size)
    except DataError as error:
        raise DataError(str(error).replace("shard.tar", name)) from error  # which it lies in


def members(root: Path) -> None:
    path = next((root / TARS).rglob("*.tar"))
    list(tars.members(path, 0, path.stat().st_size))


def going_on(root: Path) -> None:
    """A build of crops that was killed at its end goes on with what is there."""
    (root / CROPS / "train.json").unlink(missing_ok=True)
    prepare.prepare(CROPS, root)
    assert len(datasets.load(CROPS, "train", root).labels) == 40


def referred(root: Path) -> None:
    tiny = fidelity.Extractor("tiny", "0" * 64, DIM, Tiny())
    images = torch.arange(600 * 768).view(600, 3, 16, 16).to(torch.uint8)
    found = fidelity.reference(tiny, [images], ABOUT, root / "references", reservoir_size=5)
    assert found.features is not None
    assert found.features.shape == (5, DIM)


def weighed(root: Path) -> None:
    """Weights that are the published ones by their digest."""
    inception(root, hashlib.sha256((root / weights.FILE).read_bytes()).hexdigest())


class Reader(NamedTuple):
    file: str  # in the data folder, as a pattern
    read: Callable[[Path], object]
    heals: bool = False  # makes the file anew


LOAD = datasets.load
READERS = {
    "cifar": Reader("cifar10-smoke/*/test_batch", lambda r: LOAD("cifar10-smoke", "test", r)),
    "cifar names": Reader(
        "cifar10-smoke/*/batches.meta", lambda r: LOAD("cifar10-smoke", "test", r)
    ),
    "idx": Reader("**/t10k-images*.gz", lambda r: LOAD("fashion-mnist", "test", r)),
    "atlas": Reader("glyphs-test.png", lambda r: atlas.load("glyphs", "test", r)),
    "atlas manifest": Reader("glyphs.json", lambda r: atlas.load("glyphs", "test", r)),
    "photo": Reader(f"{PHOTOS}/train/*/*.JPEG", lambda r: verify.prepare(PHOTOS, r)),
    "index": Reader(f"{PHOTOS}-index/train.npz", lambda r: LOAD(PHOTOS, "train", r), heals=True),
    "manifest": Reader(f"{PHOTOS}-index/manifest.json", lambda r: verify.prepare(PHOTOS, r)),
    "scan journal": Reader("scan.journal", scanned, heals=True),
    "tar": Reader(f"{TARS}/**/*.tar", members),
    "label in json": Reader("1.json", lambda r: labelled(r, "1.json")),
    "label in cls": Reader("1.cls", lambda r: labelled(r, "1.cls")),
    "crops": Reader(f"{CROPS}/train.npy", lambda r: LOAD(CROPS, "fit", r)),
    "crops' labels": Reader(f"{CROPS}/train-labels.npy", lambda r: LOAD(CROPS, "fit", r)),
    "crops' manifest": Reader(f"{CROPS}/train.json", lambda r: LOAD(CROPS, "fit", r)),
    "crops made": Reader(f"{CROPS}/test.json", lambda r: prepare.prepare(CROPS, r)),
    "crops' journal": Reader(f"{CROPS}/train.journal", going_on, heals=True),
    "partial crops": Reader(f"{CROPS}/train.partial", going_on, heals=True),
    "devkit": Reader(devkit.ARCHIVE, lambda r: devkit.wnids(r / devkit.ARCHIVE, None, "get it")),
    **{
        f"wsol {name}": Reader(f"wsol/{name}.txt", lambda r: ground_truth.read_wsol(r / "wsol"))
        for name in ("class_labels", "image_sizes", "localization")
    },
    "xml": Reader("xml/*.xml", lambda r: ground_truth.read_xml(r / "xml")),
    "kaggle": Reader(
        "boxes.csv", lambda r: ground_truth.read_kaggle(r / "boxes.csv", {IMAGE: (9, 9)})
    ),
    "statistics": Reader("statistics.npz", lambda r: load_statistics(r / "statistics.npz")),
    "reference": Reader("references/*.npz", referred, heals=True),
    "inception": Reader(weights.FILE, weighed),
}  # fmt: skip

# The others are found by what they are, or are read by the test itself.
FOUND = ("photo", "tar", "label in json", "label in cls", "inception")
IN_PLACE = [name for name in READERS if name not in FOUND]


# --- what may lie there ---------------------------------------------------------------------------

MOST = 25  # contents of a kind that are tried
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**70,
    1e308,
    "x",
    "\x1b[2J\n",
    [],
    {},
    [[0]],
    {"a": "b"},
)
DAMAGES: dict[str, Callable[[bytes], list[bytes]]] = {
    "empty": lambda _: [b""],
    "deep": lambda _: [b"[" * 100_000, b'{"a":' * 100_000, b"(" * 100_000],
    "binary": lambda _: [bytes(range(256)) * 40, b"\x93NUMPY\x01\0\xff\xff", b"PK\x03\x04" * 40,
                         b"\x80\x04.", b"\x1f\x8b\x08" + bytes(20)],
    "cut": lambda whole: [whole[: len(whole) * part // 7] for part in range(1, 7)] + [whole[:-1]],
    "altered": lambda whole: [whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]
                              for at in range(0, len(whole), max(1, len(whole) // 25))],
    "wrong types": lambda whole: [*map(as_json, VALUES), b"NaN", *changed(whole)],
}  # fmt: skip


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def changed(whole: bytes) -> Iterator[bytes]:
    """A JSON file, a file of arrays, or an annotation with one value of another type."""
    if whole.startswith(b"PK"):
        with np.load(io.BytesIO(whole), allow_pickle=False) as stored:
            arrays = dict(stored) if all("/" not in name for name in stored.files) else {}
        yield from (saved(np.savez, **(arrays | {name: other}))
                    for name in arrays for other in other_arrays(arrays[name]))  # fmt: skip
    elif whole.startswith(b"\x93NUMPY"):
        array = np.load(io.BytesIO(whole), allow_pickle=False)
        yield from (saved(np.save, other) for other in other_arrays(array))
    elif whole.startswith(b"<annotation>"):
        yield from (XML.format(*pair).encode() for pair in (("a\nb", 5), (WNID, "9" * 5000)))
    else:
        first, *rest = (
            whole.split(b"\n") if whole.startswith((b'{"unit"', b'{"photos"')) else [whole]
        )
        with_changes = changes(json.loads(first)) if first.startswith((b"{", b"[")) else ()
        yield from (b"\n".join([as_json(value), *rest]) for value in with_changes)


def other_arrays(array: Any) -> list[Any]:
    far = np.full(array.shape, 2**40)
    return [np.array("x"), np.array([{}]), array[None], array.ravel()[:1], -far, far,
            far.astype(complex), far * np.float16(np.nan), np.zeros((0, 3))]  # fmt: skip


def saved(save: Callable[..., None], *arrays: Any, **named: Any) -> bytes:
    buffer = io.BytesIO()
    with np.errstate(all="ignore"):
        save(buffer, *arrays, **named)
    return buffer.getvalue()


def changes(value: Any, depth: int = 0) -> Iterator[Any]:
    """The value with one of the values in it exchanged, or missing."""
    if depth:
        yield from VALUES
    if isinstance(value, dict):
        for key in value:
            yield {name: one for name, one in value.items() if name != key}
            yield from (value | {key: other} for other in changes(value[key], depth + 1))
    elif isinstance(value, list) and value:
        yield from ([other, *value[1:]] for other in changes(value[0], depth + 1))


@contextmanager
def kept(root: Path, reader: Reader) -> Iterator[Path]:
    """The file that the reader reads; afterwards all is as it was."""
    touched = CROPS in reader.file
    if CROPS in reader.file and reader.heals:  # as a build leaves it that is killed at its end
        about = json.loads((root / "broken-off/train.json").read_text())
        way = json.dumps(about["source"] | {"kernel": about["kernel"]})
        (root / CROPS / "train.journal").write_text(f'{way}\n[0, "{about["sha256"][0]}"]\n')
        shutil.copy(root / "broken-off/train.npy", root / CROPS / "train.partial")
    path = next(root.glob(reader.file))
    whole, times = path.read_bytes(), path.stat()
    try:
        yield path
    finally:
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(whole)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        if touched:
            shutil.rmtree(root / CROPS)
            shutil.copytree(root / "broken-off", root / CROPS)


def refusal(reader: Reader, root: Path, path: Path) -> str:
    """What the reader says of the file; '' if it takes it. Nothing else is raised."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a reference that is measured again
            reader.read(root)
    except DataError as error:
        said = str(error)
        assert len(said.splitlines()) == 1
        assert path.name in said or str(path.parent) in said  # or what lies beside it
        assert "; " in said  # what is wrong; the next step
        return said
    return ""


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", READERS)
def test_a_file_may_hold_anything(name: str, damage: str, root: Path) -> None:
    reader = READERS[name]
    with kept(root, reader) as path:
        whole = path.read_bytes()
        contents = DAMAGES[damage](whole)
        for content in contents[:: -(-len(contents) // MOST)]:
            path.unlink(missing_ok=True)
            path.write_bytes(content)
            said = refusal(reader, root, path)
            assert said or reader.heals or damage not in ("empty", "deep", "binary")


@pytest.mark.parametrize("name", IN_PLACE)
def test_a_pipe_or_a_folder_may_be_in_its_place(name: str, root: Path) -> None:
    reader = READERS[name]
    with kept(root, reader) as path:
        for make in (os.mkfifo, os.mkdir):
            path.unlink(missing_ok=True)  # a journal is gone when it has served
            make(path)
            said = refusal(reader, root, path)
            assert said or reader.heals
            if path.is_dir():
                path.rmdir()
                path.touch()


@pytest.mark.parametrize("name", READERS)
def test_what_is_sound_is_read(name: str, root: Path) -> None:
    """Or the tests above would pass with a reader that refuses everything."""
    with kept(root, READERS[name]) as path:
        said = refusal(READERS[name], root, path)
    assert not said or name in ("idx", "inception")  # whose digests only the real files have


@pytest.mark.parametrize("file", [f"{PHOTOS}-index/manifest.json", f"{CROPS}/test.json"])
def test_prepare_ends_in_one_line(
    file: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with kept(root, Reader(file, str)) as path:
        path.write_bytes(b"[" * 100_000)
        assert main(["prepare", CROPS, "--data", str(root)]) == 2
        said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert f"{path}: lists or objects nested more than 32 deep" in said
    assert "remove" in said
    assert "and run `repro prepare" in said


def test_a_tar_does_not_lead_back(tmp_path: Path) -> None:
    """A member of a negative size would be read for ever."""
    whole = bytearray(make_tar({"a.jpeg": b"x"}))
    for size in (-1024, 10**12):
        whole[124:136] = size.to_bytes(12, "big", signed=True)
        whole[124] |= 0x80
        whole[148:156] = b" " * 8
        whole[148:156] = b"%06o\0 " % sum(whole[:512])
        path = tmp_path / "a.tar"
        path.write_bytes(whole)
        with pytest.raises(DataError, match=f"a member of {size:,} bytes"):
            list(tars.members(path, 0, len(whole)))
