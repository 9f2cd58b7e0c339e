"""Maps beside each other, and the pictures that experiments draw from what runs keep."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from repro import experiments, results
from repro.core.scales import runs_at_scale
from repro.render import maps, page, pictures
from repro.render.frame import tidy
from repro.render.maps import ExplainedImage
from repro.spec import Run
from tests.finished import finish, npz

METHODS = ("NesT-S, CAM", "DeiT-S, rollout")


def picture(**changes: object) -> ExplainedImage:
    hot = np.zeros((8, 8), np.float32)
    hot[1, 6] = 5.0  # at the upper right
    one = ExplainedImage(
        pixels=np.full((64, 64, 3), 80, np.uint8),
        class_name="Bag",
        boxes=np.array([[40, 4, 60, 20]]),
        maps=(hot, -hot),
        predicted=("Bag", "Coat"),
    )
    return replace(one, **changes)  # type: ignore[arg-type]


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return ["".join(element.itertext()).strip() for element in root.iter() if "text" in element.tag]


def draw(image: ExplainedImage) -> Figure:
    return maps.draw([image], METHODS, "A title", "a note")


def test_the_brightest_colour_is_where_the_map_is_largest() -> None:
    one = picture()
    assert not isinstance(one.maps[0], str)
    colours = maps.overlay(one.pixels, one.maps[0])
    assert colours is not None
    assert colours.shape == (128, 128, 3)
    row, column = np.unravel_index(colours.astype(int).sum(2).argmax(), (128, 128))
    assert (row // 16, column // 16) == (1, 6)
    ramp = matplotlib.colormaps[maps.COLOURS]
    brightest = 255 * (maps.OPACITY * np.array(ramp(1.0)[:3]) + (1 - maps.OPACITY) * 80 / 255)
    assert np.abs(colours[row, column] - brightest).max() <= 1


def test_scale_and_offset_of_a_map_do_not_show() -> None:
    raw = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    first, second = (maps.overlay(picture().pixels, one) for one in (raw, 3 * raw - 7))
    assert first is not None
    assert second is not None
    assert np.abs(first.astype(int) - second).max() <= 1


def test_holes_are_seen_and_wrong_classes_named() -> None:
    flat = np.ones((4, 4), np.float32)
    found = texts(page.svg(draw(picture(maps=("not run", flat))), "A title"))
    assert "not run" in found
    assert "constant" in found
    bad = np.full((4, 4), np.nan, np.float32)
    assert "not finite" in texts(page.svg(draw(picture(maps=(bad, bad))), "A title"))
    found = texts(page.svg(draw(picture()), "A title"))
    assert "predicted Coat" in found
    assert "predicted Bag" not in found
    assert {"Input", *METHODS, "Bag", "A title", "a note"} <= set(found)


def test_boxes_lie_where_they_are() -> None:
    figure = draw(picture())
    frames = [
        p for axes in figure.axes for p in axes.patches if tuple(p.get_edgecolor()[:3]) == BLUE
    ]
    assert len(frames) == 4  # of the input and two maps, and in the legend
    scale = frames[0].get_width() / 21  # type: ignore[attr-defined]
    assert frames[0].get_height() / 17 == pytest.approx(scale)  # type: ignore[attr-defined]


def test_where_there_are_no_boxes_none_are_explained() -> None:
    none = picture(boxes=np.zeros((0, 4), np.int64))
    assert "true box" not in texts(page.svg(draw(none), "A title"))
    assert "true box" in texts(page.svg(draw(picture()), "A title"))


BLUE = matplotlib.colors.to_rgb(maps.BOX)


def test_the_same_maps_are_the_same_file_within_the_page() -> None:
    figures = [
        draw(picture(class_name="A very long name of a class, in Latin as well")) for _ in "ab"
    ]
    first, second = (page.svg(figure, "t") for figure in figures)
    assert first == second
    figure = figures[0]
    figure.canvas.draw()
    width, height = figure.get_size_inches() * figure.dpi
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert box.x0 >= -1
        assert box.x1 <= width + 1
        assert box.y0 >= -1
        assert box.y1 <= height + 1


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="0 pictures by 2 methods do not fit"):
        maps.draw([], METHODS, "t", "n")
    with pytest.raises(ValueError, match="do not fit"):
        draw(picture(maps=("not run",)))


# --- from results --------------------------------------------------------------------------------


def save_arrays(root: Path, run: Run, name: str, arrays: dict[str, Any]) -> None:
    finish(root, run, extra_files={name: npz(**arrays)})


def stored_arrays(value: float, count: int = 3) -> dict[str, Any]:
    return {
        "pixels": np.full((count, 64, 64, 3), 90, np.uint8),
        "maps": np.arange(count * 4, dtype=np.float32).reshape(count, 2, 2) * value,
        "shows": np.array(["Bag", "Coat", "Shirt"][:count]),
        "predicted": np.array(["Bag", "Bag", "Shirt"][:count]),
        "boxes": np.array([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]),
        "counts": np.array([1, 2, 1][:count]),
    }


def test_a_figure_has_the_maps_of_its_runs_and_a_hole_where_one_is_missing(tmp_path: Path) -> None:
    experiment = experiments.get("figure4")
    assert "Not run yet." in pictures.svg(experiment, "demo", tmp_path)
    rows = {cell.row: run for cell, run in runs_at_scale(experiment.cells, "demo")}
    for row in experiment.picture_rows[:2]:
        save_arrays(tmp_path, rows[row], "maps.npz", stored_arrays(2.0))
    found = texts(pictures.svg(experiment, "demo", tmp_path))
    assert found.count("not run") == 2  # of the pictures 0 and 2, the third method
    assert found.count("Bag") == 1  # the picture 1 is not drawn here
    assert "Shirt" in found


def test_a_picture_has_its_own_boxes() -> None:
    seen = pictures.explained_image(["damaged", stored_arrays(1.0), stored_arrays(1.0, count=1)], 1)
    assert seen.boxes.tolist() == [[5, 6, 7, 8], [9, 10, 11, 12]]
    assert (seen.maps[0], seen.maps[2]) == ("damaged", "no such image")
    assert seen.predicted == ("", "Bag", "")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    experiment = experiments.get("figure4")
    run = next(
        run
        for c, run in runs_at_scale(experiment.cells, "demo")
        if c.row == experiment.picture_rows[0]
    )
    save_arrays(tmp_path, run, "maps.npz", stored_arrays(1.0))
    (results.folder(tmp_path, run) / "maps.npz").write_bytes(b"nothing")
    assert "Damaged." in pictures.svg(experiment, "demo", tmp_path)
    _, (warning,) = tidy(experiment, "demo", tmp_path, seeds=1)
    assert "maps.npz is damaged" in warning


def test_trees_are_those_of_the_first_seed(tmp_path: Path) -> None:
    experiment = experiments.get("figure2")
    run = next(
        run
        for c, run in runs_at_scale(experiment.cells, "demo")
        if c.row == experiment.picture_rows[0]
    )
    arrays = {
        "pixels": np.zeros((2, 64, 64, 3), np.uint8),
        "shows": np.array([[0, 1, 2, 3], [3, 2, 1, 0]]),
        "classes": np.array([[1, 2, 3, 0], [0, 3, 1, 2]]),
        "probabilities": np.full((2, 4), 0.25, np.float32),
        "paths": np.zeros((2, 4, 2), np.int64),
        "nodes1": np.ones((2, 4, 2, 2), np.float32),
        "nodes2": np.ones((2, 4, 4, 4), np.float32),
        "names": np.array(["zero", "one", "two", "three"]),
    }
    save_arrays(tmp_path, run, "trees.npz", arrays)
    found = texts(pictures.svg(experiment, "demo", tmp_path))
    assert "Shows zero, one, two, three" in found
    assert "Shows three, two, one, zero" in found
    tree = pictures.tree(arrays, 1, num_classes=2)
    assert tree.classes == ("zero", "three")
    assert len(tree.paths) == len(tree.nodes[1]) == 2
