"""Trees: what is written, filled, framed and cut out is what the paths say; nothing is cut off."""

from __future__ import annotations

import base64
import re
import struct
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from repro.render import page, trees
from repro.render.plots import COLOURS
from repro.render.tree_layout import ROOT, Block, place_apart
from repro.render.trees import Tree
from tests.render.test_figures import texts

NAMES = ("Sandal", 'a <b> & "c" $x$', "Ça va Ångström", "lighter, light, igniter, ignitor")
NOTE = "Values of different steps are not comparable."


def tree(paths: list[list[int]], scale: float = 1.0, blocks: int = 4) -> Tree:
    """Every leaf of the picture has a colour of its own: its row, its column and 200."""
    k, steps = len(paths), len(paths[0])
    rows, columns = np.indices((2**steps, 2**steps)).repeat(blocks, 1).repeat(blocks, 2) * 10
    values = np.random.default_rng(k + steps)
    return Tree(
        np.stack([rows, columns, np.full_like(rows, 200)], 2).astype(np.uint8),
        ("Sandal", "Bag"),
        NAMES[:k],
        (0.62, 0.051, 0.0101, 0.0001)[:k],
        np.array(paths),
        tuple(
            (scale * values.uniform(-9, 9, (k, 2**step, 2**step))).astype(np.float32)
            for step in range(1, steps + 1)
        ),
    )


CASES = {
    "one class": tree([[3, 1]]),
    "four ways": tree([[0, 1], [1, 2], [2, 2], [3, 3]], 1e-4),
    "all one way": tree([[3, 3]] * 4, 1e-4),
    "three steps": tree([[0, 1, 2], [0, 1, 3], [0, 2, 0], [3, 0, 0]]),
    "one quadrant": tree([[0, c, 3 - c] for c in range(4)], 1e5),
    "undecided": tree([[-1, -1], [2, -1], [3, 1], [-1, -1]]),
    "undecided at neighbours": tree([[3, 3, -1], [3, 2, -1], [3, 3, -1], [3, 3, 0]]),
    "nothing decided": tree([[-1, -1]]),
    "one step": tree([[2], [1]]),
}


def draw(*some: Tree) -> Figure:
    return trees.draw(some, "Figure 2. Trees", NOTE)


def svg(*some: Tree) -> str:
    return page.svg(draw(*some), "Figure 2. Trees")


def texts_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def pills(figure: Figure) -> list[tuple[str, float, float]]:
    """Colour, centre across and top of all filled boxes."""
    return [
        (to_hex(patch.get_facecolor()), patch.get_x() + patch.get_width() / 2, patch.get_y())
        for patch in figure.axes[0].patches
        if isinstance(patch, FancyBboxPatch)
    ]


def lines(figure: Figure) -> list[Any]:
    """All edges: the lines that are curves."""
    return [line for line in figure.axes[0].lines if np.size(line.get_xydata()) > 4]


def pictures(figure: Figure) -> list[Any]:
    return [np.asarray(image.get_array()) for image in figure.axes[0].images]


PAGES = {name: (case, case) for name, case in CASES.items()} | {
    "halves": tuple(
        replace(tree([path]), objects=("lighter, light, igniter",) * 4, classes=NAMES[-1:])
        for path in ([0, 0, 0], [1, 2, 3], [3, 3, 3], [-1, -1, -1], [2, -1, -1])
    )
}


@pytest.mark.parametrize("name", PAGES)
def test_all_is_on_the_page_and_no_text_covers_another(name: str) -> None:
    figure = draw(*PAGES[name])
    with page.style_context():
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    whole = figure.bbox
    for box in boxes:
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1
    found = list(zip(boxes, texts_of(figure), strict=True))
    for i, (box, text) in enumerate(found):
        inner = box.padded(-0.06 * box.height)  # ascenders of one line, descenders of another
        assert not [other for b, other in found[:i] if inner.overlaps(b) and inner.height > 0], text
    for image in figure.axes[0].images:
        left, right, low, high = image.get_extent()
        assert 0 < left < right < page.WIDTH
        assert high < low < figure.axes[0].get_ylim()[0]


def test_the_leaf_is_cut_out_and_framed_where_the_path_leads() -> None:
    """Child n of a step is row n // 2, column n % 2 of four: leaf row 2·r1 + r2, column alike."""
    for first, second in product(range(4), range(4)):
        row, column = 2 * (first // 2) + second // 2, 2 * (first % 2) + second % 2
        figure = draw(tree([[first, second]]))
        whole, patch = pictures(figure)
        assert whole.shape == (16, 16, 3)
        assert (patch == np.array([10 * row, 10 * column, 200])).all()
        assert patch.shape == (4, 4, 3)
        left, right, low, high = figure.axes[0].images[0].get_extent()
        x, y = left + column * (right - left) / 4, high + row * (low - high) / 4
        boxes: list[Any] = [p for p in figure.axes[0].patches if not isinstance(p, FancyBboxPatch)]
        frames = [p for p in boxes if to_hex(p.get_edgecolor()) == COLOURS[0].lower()]
        (inside, around) = sorted(frames, key=lambda p: p.get_x())
        assert inside.get_x() == pytest.approx(x, abs=0.02)
        assert inside.get_y() == pytest.approx(y, abs=0.02)
        assert around.get_x() == pytest.approx(figure.axes[0].images[1].get_extent()[0], abs=0.02)


def test_many_trees_of_one_class_are_drawn_in_two_columns() -> None:
    wide, halves = draw(*[tree([[1, 2]])] * 4), draw(*[tree([[1, 2]])] * 5)
    edges = [{image.get_extent()[0] for image in f.axes[0].images[::2]} for f in (wide, halves)]
    assert [len(found) for found in edges] == [1, 2]
    assert len(pictures(halves)) == 10
    assert halves.get_size_inches()[1] < wide.get_size_inches()[1]


def test_three_steps_lead_to_one_of_64_leaves() -> None:
    patches = pictures(draw(CASES["three steps"]))[1:]
    corners = [patch[0, 0, :2].tolist() for patch in patches]
    # 0, 1, 2: rows 4·0 + 2·0 + 1, columns 4·0 + 2·1 + 0; and so on, from left to right
    assert corners == [[10, 20], [10, 30], [20, 0], [40, 40]]


def test_one_patch_for_all_that_end_in_it() -> None:
    figure = draw(CASES["all one way"])
    assert len(pictures(figure)) == 2
    colours = {to_hex(patch.get_edgecolor()) for patch in figure.axes[0].patches}
    assert {colour.lower() for colour in COLOURS[:4]} < colours
    # The leaf is at the right edge; the numbers of its four classes are on the picture yet.
    _, right, low, high = figure.axes[0].images[0].get_extent()
    near = [x for _, x, y in pills(figure) if high < y < low and right - 0.6 < x < right + 0.6]
    assert len(near) == 4
    assert max(near) < right


@pytest.mark.parametrize("name", CASES)
def test_values_stand_where_a_class_decides_and_the_one_entered_is_filled(name: str) -> None:
    """Against the definition, block by block: a class has four values a step as far as it gets."""
    case = CASES[name]
    figure = draw(case)
    decided = [[int(child) for child in path if child >= 0] for path in case.paths]
    steps = case.paths.shape[1]
    numbers = [text for text in texts_of(figure) if re.fullmatch(r"-?\d+(\.\d+)?", text)]
    at_leaf = sum(len(path) == steps for path in decided)
    tags = 2 * len(decided) + 2 * at_leaf if len(decided) > 1 else 0
    assert len(numbers) == tags + sum(4 * min(len(path) + 1, steps) for path in decided)
    for place, path in enumerate(decided):
        own = [one for one in pills(figure) if one[0] == COLOURS[place].lower()]
        # a cell a step and a tag in the legend; of several, a tag at the first step, in the picture
        # and at the patch
        wide = len(path) + 1
        if len(decided) > 1:
            wide += 1 + 2 * (len(path) == steps)
        assert len(own) == wide


def test_values_stand_from_left_to_right_as_the_children_are() -> None:
    """Top left, top right, bottom left, bottom right: of all, and then of the top right block."""
    top = np.arange(1, 5, dtype=np.float32).reshape(1, 2, 2)
    leaves = np.arange(10, 26, dtype=np.float32).reshape(1, 4, 4)
    figure = draw(replace(tree([[1, 2]]), nodes=(top, leaves)))
    values = [text for text in figure.axes[0].texts if re.fullmatch(r"[0-9.]+", text.get_text())]
    values.sort(key=lambda text: (round(text.get_position()[1], 1), text.get_position()[0]))
    words = [text.get_text() for text in values]
    assert words == ["1.0", "2.0", "3.0", "4.0", "12", "13", "16", "17"]


def test_values_of_a_step_are_written_in_one_unit() -> None:
    case = tree([[3, 1]])
    top = np.array([[[1.26e-4, -2e-5], [0, 9.94e-4]]], np.float32)
    leaves = np.zeros((1, 4, 4), np.float32)
    leaves[0, 2:, 2:] = [[-0.5, 12.4], [1.25, -0.004]]
    shown = texts_of(draw(replace(case, nodes=(top, leaves))))
    words = ("×10⁻⁴", "1.3", "-0.20", "0.00", "9.9", "-0.50", "12")  # 1.3: also of 1.25
    assert [shown.count(word) for word in words] == [1, 2, 1, 2, 1, 1, 1]
    assert sum("×10" in text for text in shown) == 1  # what is easily read has no power
    large = texts_of(draw(replace(case, nodes=(top, leaves * 1e4))))
    assert "×10⁵" in large
    assert [large.count(word) for word in ("-0.05", "1.2", "0.13")] == [1] * 3


def test_values_that_are_equal_or_not_finite_are_written() -> None:
    case = tree([[-1, -1]])
    zeros = tuple(np.zeros_like(grid) for grid in case.nodes)
    assert texts_of(draw(replace(case, nodes=zeros))).count("0.00") == 4
    zeros[0][0] = [[np.nan, np.inf], [-np.inf, 5e-7]]
    assert {"nan", "∞", "-∞", "5.0", "×10⁻⁷"} <= set(texts_of(draw(replace(case, nodes=zeros))))


def test_edges_have_their_class_s_colour_and_lane() -> None:
    figure = draw(CASES["all one way"])
    for place in range(4):
        own = [line for line in lines(figure) if line.get_color() == COLOURS[place]]
        assert len(own) == 3  # two steps, and down to the patch
    ends = [line.get_xydata()[-1] for colour in COLOURS[:4]
            for line in lines(figure)[:] if line.get_color() == colour][::3]  # fmt: skip
    across = np.diff([x for x, _ in ends])
    np.testing.assert_allclose(across, 2.4 / 72)  # inches, more than the lines are wide
    pale = [line for line in lines(figure) if line.get_color() not in COLOURS]
    assert len(pale) == 20


def test_edges_join_the_blocks() -> None:
    figure = draw(tree([[1, 2]]))
    (first, second, third) = [
        line.get_xydata() for line in lines(figure) if line.get_color() in COLOURS
    ]
    filled = [one for one in pills(figure) if one[0] == COLOURS[0].lower()]
    entered = sorted(filled, key=lambda one: one[2])
    places = {round(x, 6) for _, x, _ in entered}
    assert round(first[-1][0], 6) in places
    assert round(second[-1][0], 6) in places
    assert second[0][0] == pytest.approx(first[-1][0])
    assert third[0][0] == pytest.approx(second[-1][0])
    for edge in (first, second, third):
        assert edge[-1][1] > edge[0][1]  # downwards


def test_what_is_undecided_ends_with_a_word() -> None:
    assert texts(svg(CASES["undecided"])).count("undecided") == 3
    assert "undecided" not in svg(CASES["four ways"])
    figure = draw(CASES["undecided"])
    assert len(pictures(figure)) == 2  # of the one class that gets to a leaf
    assert not [line for line in lines(figure) if line.get_color() in (COLOURS[0], COLOURS[3])]


def test_names_are_written_as_they_are() -> None:
    figure = svg(replace(CASES["four ways"], objects=("a <b>", "Çédille $y$")))
    shown = texts(figure)
    assert "Shows a <b>, Çédille $y$" in shown
    for words in (
        "Figure 2. Trees",
        NOTE,
        'a <b> & "c"',
        "$x$",
        "Ça va",
        "62%",
        "5.1%",
        "1.0%",
        "<0.1%",
    ):
        assert words in shown
    assert "lighter," in shown
    assert "…" in shown  # of a name that is too long
    assert "Shows" not in svg(replace(CASES["four ways"], objects=()))


def test_the_same_bytes_and_every_picture_at_its_own_resolution() -> None:
    some = CASES["four ways"], CASES["three steps"]
    assert svg(*some) == svg(*some)
    assert page.png(draw(*some), "t") == page.png(draw(*some), "t")
    embedded = re.findall(r"data:image/png;base64,\s*([^\"]*)", svg(*some))
    sizes = [struct.unpack(">II", base64.b64decode(png)[16:24])[0] for png in embedded]
    assert sizes == [16, 4, 4, 4, 4, 32, 4, 4, 4, 4]
    assert svg(*some).count("pixelated") == 10


def test_without_trees_there_are_the_title_and_the_note() -> None:
    shown = texts(page.svg(trees.draw([], "Figure 2", "Not run."), "Figure 2"))
    assert shown == "Figure 2 Not run."


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"pixels": np.zeros((18, 18, 3), np.uint8)}, "do not divide"),
        ({"pixels": np.zeros((16, 12, 3), np.uint8)}, "do not divide"),
        ({"classes": ("a",) * 5}, "5 classes; there are colours for 1 to 4"),
        ({"probabilities": (0.5,)}, "2 classes, 1 probabilities"),
        ({"paths": np.array([[0, 4], [0, 0]])}, "a child is 0 to 3"),
        ({"paths": np.array([[-1, 2], [0, 0]])}, "with all below it"),
        ({"nodes": (np.zeros((2, 2, 2)), np.zeros((2, 2, 2)))}, "at step 2, not (2, 4, 4)"),
    ],
)
def test_parts_that_do_not_fit_are_named(wrong: dict[str, Any], words: str) -> None:
    good = tree([[0, 1], [1, 2]])
    with pytest.raises(ValueError, match=f"tree 2 of 2: .*{re.escape(words)}"):
        draw(good, replace(good, **wrong))


def test_blocks_are_their_children_s_parents() -> None:
    assert ROOT.children()[2].children()[1] == Block(2, 2, 1)
    assert {child.parent() for child in Block(2, 3, 1).children()} == {Block(2, 3, 1)}


@given(st.lists(st.floats(0, 10), min_size=1, max_size=6))
def test_place_apart_avoids_overlap_and_stays_near(targets: list[float]) -> None:
    targets = sorted(targets)
    found = np.array(place_apart(targets, 1.5, 0, 10))
    assert (np.diff(found) > 1.5 - 1e-9).all()
    assert found[0] > 0.75 - 1e-9
    assert found[-1] < 9.25 + 1e-9
    cost = ((found - targets) ** 2).sum()
    for step in (-0.01, 0.01):  # least squares: no single one, and not all, can move to advantage
        for moved in (*(np.arange(len(found)) == i for i in range(len(found))), True):
            other = found + step * np.array(moved)
            allowed = (np.diff(other) >= 1.5).all() and other[0] >= 0.75 and other[-1] <= 9.25
            assert not allowed or ((other - targets) ** 2).sum() > cost - 1e-9
