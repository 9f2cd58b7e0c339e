"""Ground-truth boxes: three forms that say the same, and damage that is named."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from repro.data.imagenet.ground_truth import (
    ANNOTATIONS,
    SOLUTION,
    GroundTruth,
    image_id,
    read,
    read_kaggle,
    read_wsol,
    read_xml,
)
from repro.data.imagenet.reader import synsets
from repro.data.images import DataError

NAMES = [f"ILSVRC2012_val_0000000{number}" for number in (1, 2, 3)]
SIZES = {NAMES[0]: (500, 375), NAMES[1]: (40, 30), NAMES[2]: (224, 224)}
LABELS = {NAMES[0]: 65, NAMES[1]: 970, NAMES[2]: 0}
BOXES = {
    NAMES[0]: [(111, 108, 441, 193)],
    NAMES[1]: [(0, 0, 39, 29), (5, 6, 7, 8)],
    NAMES[2]: [(0, 10, 224, 20)],
}


def as_wsol(data: Path) -> None:
    folder = data / "wsol/test"
    folder.mkdir(parents=True)
    lines = {
        "class_labels": [f"val/{n}.JPEG,{LABELS[n]}" for n in NAMES],
        "image_sizes": [f"val/{n}.JPEG,{w},{h}" for n, (w, h) in SIZES.items()],
        "localization": [
            f"val/{n}.JPEG,{','.join(map(str, box))}" for n in NAMES for box in BOXES[n]
        ],
    }
    for name, text in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(text) + "\n")


def xml(name: str, objects: str = "") -> str:
    width, height = SIZES[name]
    wnid = synsets()[LABELS[name]]
    return (
        f"<annotation><filename>{name}</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>3</depth></size>"
        + "".join(element(wnid, box) for box in BOXES[name])
        + f"{objects}</annotation>"
    )


def element(wnid: str, box: tuple[int, ...]) -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    inside = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{wnid}</name><bndbox>{inside}</bndbox></object>"


def as_xml(data: Path) -> None:
    (data / ANNOTATIONS).mkdir(parents=True)
    for name in NAMES:
        (data / ANNOTATIONS / f"{name}.xml").write_text(xml(name))


def as_csv(data: Path) -> None:
    rows = [
        f"{n}," + "".join(f"{synsets()[LABELS[n]]} {' '.join(map(str, b))} " for b in BOXES[n])
        for n in NAMES
    ]
    (data / SOLUTION).write_text("\n".join(["ImageId,PredictionString", *rows]) + "\n")


def content(truth: GroundTruth) -> list[object]:
    return [
        (name, tuple(truth.sizes[at]), truth.labels[at], truth.of(at).tolist())
        for at, name in enumerate(truth.ids)
    ]


EXPECTED = [(n, SIZES[n], LABELS[n], list(map(list, BOXES[n]))) for n in NAMES]


@pytest.mark.parametrize("write", [as_wsol, as_xml, as_csv])
def test_every_form_says_the_same(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    truth = read(tmp_path, sizes=SIZES)
    assert content(truth) == EXPECTED
    assert truth.boxes.dtype == truth.first.dtype == truth.labels.dtype == np.int64
    assert len(truth) == 3


def test_compressed_metadata_is_read_as_well_and_before_the_others(tmp_path: Path) -> None:
    as_wsol(tmp_path)
    for path in sorted((tmp_path / "wsol/test").iterdir()):
        path.with_suffix(".txt.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    (tmp_path / SOLUTION).write_text("damaged")
    assert content(read(tmp_path)) == EXPECTED


def test_boxes_of_an_image_need_not_stand_together(tmp_path: Path) -> None:
    as_wsol(tmp_path)
    path = tmp_path / "wsol/test/localization.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[1], lines[3], lines[0], lines[2]]))
    assert content(read(tmp_path)) == EXPECTED


def test_imagenet_v2_is_wsolevaluations_val(tmp_path: Path) -> None:
    folder = tmp_path / "wsol/val"
    folder.mkdir(parents=True)
    (folder / "class_labels.txt").write_text("val2/0/7.jpeg,0\nval2/999/7.jpeg,999\n")
    (folder / "image_sizes.txt").write_text("val2/0/7.jpeg,500,375\nval2/999/7.jpeg,80,90\n")
    (folder / "localization.txt").write_text("val2/0/7.jpeg,1,2,3,4\nval2/999/7.jpeg,5,6,7,8\n")
    truth = read(tmp_path, "val")
    assert truth.ids == ("0/7", "999/7")
    assert truth.labels.tolist() == [0, 999]
    taken = truth.take(["photos/999/7.jpeg", "val2/0/7.jpeg", "999/7.png"])
    first, second, third = (taken.of(at).tolist() for at in range(3))
    assert first == third == [[5, 6, 7, 8]]
    assert second == [[1, 2, 3, 4]]
    assert taken.labels.tolist() == [999, 0, 999]
    with pytest.raises(DataError, match=r"0/8: no ground-truth box \(1 such\)"):
        truth.take(["val2/0/7.jpeg", "val2/0/8.jpeg"])


def test_the_id_of_an_image_is_the_same_in_every_layout() -> None:
    for name in ("val/{}.JPEG", "n01440764/{}.JPEG", "ILSVRC2012_img_val.tar:{}.JPEG", "{}"):
        assert image_id(name.format(NAMES[0])) == NAMES[0]
    assert image_id("val2/0/7.jpeg") == image_id("/a/b.c/0/7") == "0/7"


# ---- which objects count ------------------------------------------------------------------------


def test_objects_of_other_classes_are_excluded_or_kept_by_option(tmp_path: Path) -> None:
    as_xml(tmp_path)
    folder = tmp_path / ANNOTATIONS
    other = element(synsets()[5], (1, 1, 9, 9))
    (folder / f"{NAMES[0]}.xml").write_text(xml(NAMES[0], other))
    with pytest.raises(DataError, match=f"{NAMES[0]}.xml: objects of 2 classes"):
        read_xml(folder)
    class_of = {name: synsets()[LABELS[name]] for name in NAMES}
    assert content(read_xml(folder, class_of)) == EXPECTED
    every = read_xml(folder, class_of, keep="all")
    assert every.of(0).tolist() == [[111, 108, 441, 193], [1, 1, 9, 9]]
    assert every.labels[0] == 65


# ---- damage -------------------------------------------------------------------------------------


def test_no_boxes_at_all_are_an_error_with_the_places(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"wsol/test/localization.txt, .*xml, .*LOC_val_solution"):
        read(tmp_path)
    as_csv(tmp_path)
    with pytest.raises(DataError, match=r"there: \S+wsol/val/localization.txt$"):
        read(tmp_path, "val")


FIRST = f"val/{NAMES[0]}.JPEG"
WSOL_DAMAGE = {
    "outside": ("localization", f"{FIRST},111,108,441,376", "line 1: box .* is outside"),
    "negative": ("localization", f"{FIRST},-1,108,441,193", "line 1: box .* is outside"),
    "degenerate": ("localization", f"{FIRST},111,108,111,193", "line 1: .* is empty"),
    "reversed": ("localization", f"{FIRST},111,193,441,108", "line 1: .* is empty"),
    "a word": ("localization", f"{FIRST},111,108,441,x", "line 1: .* is a malformed line"),
    "a number less": ("localization", f"{FIRST},111,108,441", "line 1: .* is a malformed line"),
    "unknown": ("localization", "val/ILSVRC2012_val_00000009.JPEG,1,2,3,4", "line 1: no class of"),
    "sizeless": ("image_sizes", "val/ILSVRC2012_val_00000009.JPEG,5,5", f"no size of {NAMES[0]}"),
    "no class": ("class_labels", f"{FIRST},1000", "class_labels.txt, line 1: no class 1000"),
}


@pytest.mark.parametrize("case", WSOL_DAMAGE)
def test_damaged_metadata_is_named_with_its_line(case: str, tmp_path: Path) -> None:
    as_wsol(tmp_path)
    name, line, message = WSOL_DAMAGE[case]
    path = tmp_path / f"wsol/test/{name}.txt"
    path.write_text("\n".join([line, *path.read_text().splitlines()[1:]]))
    with pytest.raises(DataError, match=f"{message}.*; take it again from wsolevaluation"):
        read(tmp_path)


def test_an_image_without_a_box_and_a_missing_or_cut_file_are_named(tmp_path: Path) -> None:
    as_wsol(tmp_path)
    folder = tmp_path / "wsol/test"
    path = folder / "localization.txt"
    path.write_text("\n".join(path.read_text().splitlines()[1:]))
    with pytest.raises(DataError, match=f"localization.txt: no box of its class for {NAMES[0]}"):
        read_wsol(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"localization.txt.gz: missing; take it again"):
        read_wsol(folder)
    (folder / "localization.txt.gz").write_bytes(gzip.compress(b"text" * 99)[:-9])
    with pytest.raises(DataError, match=r"localization.txt.gz: .*; take it again"):
        read_wsol(folder)


BOMB = (
    '<!DOCTYPE a [<!ENTITY b "bbbbbbbb">'
    + "".join(f'<!ENTITY b{n} "{f"&b{n - 1 if n else str()};" * 10}">' for n in range(9))
    + "]><annotation>&b8;</annotation>"
)
XML_DAMAGE = {
    "cut off": (xml(NAMES[0])[:-20], "no element found|mismatched|unclosed"),
    "entities": (BOMB, "declares a document type"),
    "sizeless": ("<annotation/>", "a size or a box without integers"),
    "a word": (xml(NAMES[0]).replace("441", "4x1"), "without integers"),
    "outside": (xml(NAMES[0]).replace("441", "501"), "is outside the image, 500 x 375 px"),
    "no object": (xml(NAMES[0]).replace("object", "subject"), "no object"),
    "no class": (xml(NAMES[0]).replace(synsets()[65], "n99999999"), "n99999999 is not a class"),
    "not text": ("\udcff", "decode"),
}


@pytest.mark.parametrize("case", XML_DAMAGE)
def test_a_damaged_annotation_is_named(case: str, tmp_path: Path) -> None:
    as_xml(tmp_path)
    text, message = XML_DAMAGE[case]
    path = tmp_path / ANNOTATIONS / f"{NAMES[0]}.xml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=f"{path.name}: .*({message})"):
        read(tmp_path)


def test_a_folder_without_annotations_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \*.xml in it"):
        read_xml(tmp_path)


WNID = synsets()[65]
CSV_DAMAGE = {
    "four": (f"{NAMES[0]},{WNID} 1 2 3", "line 2: 4 words, not groups"),
    "six": (f"{NAMES[0]},{WNID} 1 2 3 4 5", "line 2: 6 words, not groups"),
    "nothing": (f"{NAMES[0]},", "line 2: 0 words, not groups"),
    "shifted": (f"{NAMES[0]},1 {WNID} 2 3 4", "line 2: 5 words, not groups"),
    "unknown": (f"{NAMES[0]},n99999999 1 2 3 4", "line 2: n99999999 is not a class"),
    "sizeless": (f"ILSVRC2012_val_00000009,{WNID} 1 2 3 4", "line 2: unknown size of ILSVRC"),
    "outside": (f"{NAMES[0]},{WNID} 1 2 501 4", "line 2: box .* is outside the image"),
    "twice": (f"{NAMES[1]},{WNID} 1 2 3 4", f"line 3: duplicate entry for {NAMES[1]}"),
}


@pytest.mark.parametrize("case", CSV_DAMAGE)
def test_a_damaged_solution_is_named_with_its_line(case: str, tmp_path: Path) -> None:
    as_csv(tmp_path)
    line, message = CSV_DAMAGE[case]
    path = tmp_path / SOLUTION
    header, _, *rest = path.read_text().splitlines()
    path.write_text("\n".join([header, line, *rest]))
    with pytest.raises(DataError, match=message):
        read(tmp_path, sizes=SIZES)


def test_a_solution_needs_its_header_and_the_sizes(tmp_path: Path) -> None:
    as_csv(tmp_path)
    with pytest.raises(DataError, match=f"line 2: unknown size of {NAMES[0]}; put"):
        read(tmp_path)
    (tmp_path / SOLUTION).write_text("")
    with pytest.raises(DataError, match="line 1: '' is not the header"):
        read_kaggle(tmp_path / SOLUTION, SIZES)
