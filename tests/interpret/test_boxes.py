"""Boxes of maps: against a plain sweep of the protocol, closed forms, and pixel by pixel."""

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from repro.interpret.boxes import (
    Boxes,
    Grey,
    boxes_of,
    centre_box,
    overlap,
    scale_boxes,
    whole_image,
)

# ---- the protocol, told once more without any of our code ---------------------------------------

THRESHOLDS = list(np.arange(0, 1, 0.001))


def reference_boxes(grey: Grey, tau: float) -> tuple[list[list[int]], int]:
    """All boxes of wsolevaluation at one threshold, and which is that of the largest contour."""
    height, width = grey.shape
    above = (grey > int(tau * np.max(grey))).astype(np.uint8)
    contours = cv2.findContours(above, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    if len(contours) == 0:
        return [[0, 0, 0, 0]], 0
    areas = [cv2.contourArea(contour) for contour in contours]
    rectangles = map(cv2.boundingRect, contours)
    boxes = [[x, y, min(x + w, width - 1), min(y + h, height - 1)] for x, y, w, h in rectangles]
    return boxes, areas.index(max(areas))


def reference_iou(a: list[int], b: list[int]) -> float:
    across = max(0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    down = max(0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    area_a = (a[2] - a[0] + 1) * (a[3] - a[1] + 1)
    area_b = (b[2] - b[0] + 1) * (b[3] - b[1] + 1)
    return across * down / (area_a + area_b - across * down)


# ---- maps ---------------------------------------------------------------------------------------


def smooth(seed: int, side: int = 224) -> Grey:
    """What a class activation map looks like: 14 x 14, bicubic."""
    raw = np.random.default_rng(seed).normal(size=(14, 14)).astype(np.float32)
    large = cv2.resize(raw, (side, side), interpolation=cv2.INTER_CUBIC)
    unit = (large - large.min()) / (large.max() - large.min())
    return np.asarray((unit * 255).astype(np.uint8))


def blobs() -> Grey:
    grey = np.zeros((224, 224), np.uint8)
    for x, y, radius, value in ((40, 50, 30, 90), (150, 60, 45, 255), (215, 215, 20, 128)):
        cv2.circle(grey, (x, y), radius, value, -1)
    return grey


def ring_and_disc() -> Grey:
    """A ring one pixel thin about a hole, and a disc of more pixels but a smaller polygon."""
    grey = np.zeros((64, 64), np.uint8)
    cv2.rectangle(grey, (2, 2), (32, 32), 200, 1)
    cv2.rectangle(grey, (40, 40), (60, 60), 200, -1)
    return grey


def nested() -> Grey:
    """Rings in rings: a hole's contour is a box as well."""
    grey = np.zeros((60, 60), np.uint8)
    for margin, value in ((2, 250), (10, 120), (18, 250), (25, 60)):
        cv2.rectangle(grey, (margin, margin), (59 - margin, 59 - margin), value, 2)
    return grey


def few_values(seed: int, shape: tuple[int, int] = (24, 24)) -> Grey:
    return np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8) * 50


def squares(thickness: int) -> Grey:
    """Twelve contours of the same polygon area, 1 or 0: the first one counts."""
    grey = np.zeros((24, 24), np.uint8)
    for at in range(0, 24, 2):
        grey[at : at + thickness + 1, (7 * at) % 22 : (7 * at) % 22 + 2] = 255
    return grey


PICTURES: dict[str, Grey] = {
    "smooth": smooth(0),
    "smooth too": smooth(1),
    "small": smooth(2, 56),
    "blobs": blobs(),
    "ring and disc": ring_and_disc(),
    "nested": nested(),
    "ties": few_values(0),
    "not square": few_values(1, (9, 31)),
    "without zero": few_values(2) + 7,
    "constant": np.full((20, 20), 130, np.uint8),
    "empty": np.zeros((20, 20), np.uint8),
    "equal squares": squares(1),
    "equal lines": squares(0),
    "dim": smooth(3, 56) // 3,
}


def same_at_every_tau(grey: Grey) -> None:
    found = boxes_of(grey)
    for tau in THRESHOLDS:
        boxes, largest = reference_boxes(grey, tau)
        cut = int(tau * np.max(grey))
        assert found.at(cut).tolist() == boxes, tau
        assert found.boxes[found.largest[found.step[cut]]].tolist() == boxes[largest], tau


@pytest.mark.parametrize("picture", PICTURES)
def test_the_boxes_are_the_protocols_at_every_threshold(picture: str) -> None:
    same_at_every_tau(PICTURES[picture])


@settings(deadline=None, max_examples=60)
@given(
    arrays(
        np.uint8,
        st.tuples(st.integers(1, 12), st.integers(1, 12)),
        elements=st.sampled_from([0, 1, 2, 80, 81, 254, 255]),
    )
)
def test_the_boxes_of_any_map_are_the_protocols(grey: Grey) -> None:
    same_at_every_tau(grey)


def test_a_box_ends_a_pixel_behind_its_contour_but_not_behind_the_map() -> None:
    grey = np.zeros((10, 10), np.uint8)
    grey[2:5, 3:7] = 255
    assert boxes_of(grey).at(0).tolist() == [[3, 2, 7, 5]]
    grey[2:, 3:] = 255
    assert boxes_of(grey).at(0).tolist() == [[3, 2, 9, 9]]


def test_a_thin_ring_beats_a_disc_of_more_pixels_and_its_hole_has_a_box() -> None:
    grey = ring_and_disc()
    found = boxes_of(grey)
    assert (grey[:35, :35] > 0).sum() < (grey[35:, 35:] > 0).sum()
    assert found.boxes[found.largest[found.step[0]]].tolist() == [2, 2, 33, 33]
    assert sorted(found.at(0).tolist()) == [[2, 2, 33, 33], [2, 2, 33, 33], [40, 40, 61, 61]]


def test_only_the_cuts_that_change_the_mask_are_visited(monkeypatch: pytest.MonkeyPatch) -> None:
    visits = []
    original = cv2.findContours

    def counting(*arguments: object) -> object:
        visits.append(arguments)
        return original(*arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(cv2, "findContours", counting)
    for grey, masks in ((few_values(0), 3), (few_values(0) + 7, 4), (PICTURES["empty"], 0)):
        visits.clear()
        boxes_of(grey)
        assert len(visits) == masks


# ---- geometry -----------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.data())
def test_scaling_cuts_fractions_off(width: int, height: int, data: st.DataObject) -> None:
    x, y = data.draw(st.integers(0, width)), data.draw(st.integers(0, height))
    expected = [
        int(float(x) * 224.0 / float(width)),
        int(float(y) * 224.0 / float(height)),
        224,
        224,
    ]
    box, size = np.array([[x, y, width, height]]), np.array([width, height])
    assert scale_boxes(box, size).tolist() == [expected]
    assert scale_boxes(box, size[None]).tolist() == [expected]


corner = st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 6), st.integers(0, 6))


def pixels(boxes: Boxes) -> npt.NDArray[np.bool_]:
    """(M, 16, 16): which pixels belong to each box, both corners included."""
    y, x = np.indices((16, 16))
    inside = [(x >= a) & (x <= c) & (y >= b) & (y <= d) for a, b, c, d in boxes.tolist()]
    return np.array(inside)


@settings(deadline=None)
@given(st.lists(corner, min_size=1, max_size=4), st.lists(corner, min_size=1, max_size=3))
def test_the_overlap_counts_pixels(
    a: list[tuple[int, int, int, int]], b: list[tuple[int, int, int, int]]
) -> None:
    boxes, targets = (np.array([(x, y, x + w, y + h) for x, y, w, h in each]) for each in (a, b))
    shared, union = overlap(boxes, targets)
    one, other = pixels(boxes)[:, None], pixels(targets)[None]
    assert (shared == (one & other).sum((2, 3))).all()
    assert (union == (one | other).sum((2, 3))).all()


def test_the_baselines_boxes() -> None:
    assert whole_image().tolist() == [0, 0, 223, 223]
    assert centre_box(1.0).tolist() == whole_image().tolist()
    assert centre_box().tolist() == [23, 23, 201, 201]
    assert centre_box(0.6).tolist() == [45, 45, 179, 179]
    assert centre_box(0.5, 32).tolist() == [8, 8, 24, 24]
