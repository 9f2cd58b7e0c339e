"""Scores of maps and what is made of them: against a plain sweep of the protocol."""

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.core.iou import IOU_UNITS, IOUS_V2
from repro.data.imagenet.ground_truth import GroundTruth
from repro.interpret import bootstrap
from repro.interpret.bootstrap import Resamples
from repro.interpret.box_accuracy import (
    CURVE,
    Thresholds,
    accuracy,
    fixed_thresholds,
    localization,
    tune_thresholds,
)
from repro.interpret.box_iou import (
    TAUS,
    Contours,
    Scores,
    concatenate,
    cuts_of,
    score,
    score_box,
    targets,
    upsample,
)
from repro.interpret.boxes import Boxes, centre_box, whole_image
from tests.interpret.test_boxes import THRESHOLDS, reference_boxes, reference_iou

SIDE = 32
Floats = npt.NDArray[np.float64]


def some_maps(count: int, seed: int) -> tuple[Floats, list[Boxes], list[str]]:
    """Maps that hit often: a hill in the first true box, and noise; some dim, one empty."""
    generator = np.random.default_rng(seed)
    y, x = np.indices((SIDE, SIDE))
    maps, truths = np.zeros((count, SIDE, SIDE)), []
    for image in maps:
        low = generator.integers(0, 16, (generator.integers(1, 4), 2))
        boxes = np.concatenate([low, low + generator.integers(3, 16, low.shape)], axis=1)
        truths.append(boxes)
        (a, b, c, d), width = boxes[0], generator.uniform(0.2, 0.6)
        hill = ((x - (a + c) / 2) / (c - a)) ** 2 + ((y - (b + d) / 2) / (d - b)) ** 2
        image += np.exp(-hill / (2 * width**2)) + 0.4 * generator.random((SIDE, SIDE))
        image -= image.min()
        image /= image.max()
    maps[3] = 0
    maps[5:8] *= 0.4
    return maps, truths, [f"image {number}" for number in range(count)]


MAPS, TRUTHS, NAMES = some_maps(24, 0)
CLASSIFIED = np.random.default_rng(1).random(24) < 0.7


@cache
def scores() -> Scores:
    return score(MAPS, TRUTHS, NAMES)


@cache
def reference(contours: Contours) -> Floats:
    """The best IoU (24, 1000) of each image at each threshold."""
    best = []
    for image, truths in zip(MAPS, TRUTHS, strict=True):
        grey = (image * 255).astype(np.uint8)
        for tau in THRESHOLDS:
            boxes, largest = reference_boxes(grey, tau)
            chosen = boxes if contours == "every" else [boxes[largest]]
            best.append(max(reference_iou(a, b) for a in chosen for b in truths.tolist()))
    return np.array(best).reshape(len(MAPS), -1)


@pytest.mark.parametrize("contours", ["largest", "every"])
def test_the_best_iou_is_the_protocols_at_every_threshold(contours: Contours) -> None:
    place = ("largest", "every").index(contours)
    cuts = cuts_of(TAUS, scores().top)
    ours = np.take_along_axis(scores().iou[:, place].astype(np.int64), cuts, 1)
    assert (ours == np.floor(reference(contours) * IOU_UNITS + 1e-6)).all()
    assert len(np.unique(ours)) > 500


@pytest.mark.parametrize("iou", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("contours", ["largest", "every"])
def test_accuracy_is_the_protocols_at_every_threshold(contours: Contours, iou: float) -> None:
    right = reference(contours) >= iou
    assert accuracy(scores(), contours, iou) == pytest.approx(right.mean(0))
    for tau in (0.0, 0.2, 0.333, 0.999):
        column = THRESHOLDS.index(tau)
        assert (scores().hits_at(contours, iou, tau) == right[:, column]).all()


def test_the_cut_is_the_whole_part_of_tau_times_the_largest_value() -> None:
    tops = np.arange(256, dtype=np.uint8)
    expected = [[int(tau * np.max(top)) for tau in THRESHOLDS] for top in tops]
    assert (cuts_of(TAUS, tops) == expected).all()


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 50176), st.integers(0, 50176), st.integers(1, 99))
def test_an_iou_in_ten_thousandths_passes_what_it_passes_itself(
    union: int, shared: int, percent: int
) -> None:
    shared = min(shared, union)
    kept = shared * IOU_UNITS // union >= round(percent / 100 * IOU_UNITS)
    assert kept == (shared / union >= percent / 100)


# ---- what is made of them -----------------------------------------------------------------------


def test_the_oracle_is_max_box_acc_and_its_second_version() -> None:
    found = localization(scores(), None, CLASSIFIED)
    largest, every = reference("largest"), reference("every")
    assert found.gt_known.value == pytest.approx((largest >= 0.5).mean(0).max())
    best = [(every >= iou).mean(0).max() for iou in IOUS_V2]
    assert [each.value for each in found.v2_at] == pytest.approx(best)
    assert found.v2.value == pytest.approx(np.mean(best))
    curve = [(largest >= iou).mean(0).max() for iou in CURVE]
    assert [each.value for each in found.curve] == pytest.approx(curve)
    tau = THRESHOLDS[int((largest >= 0.5).mean(0).argmax())]
    assert found.thresholds.choice == "oracle"
    assert found.thresholds.largest == tau
    both = (largest[:, THRESHOLDS.index(tau)] >= 0.5) & CLASSIFIED
    assert found.top1_error is not None
    assert found.top1_error.value == pytest.approx(1 - both.mean())
    assert found.empty == 1


def test_thresholds_of_another_set_are_applied_as_they_are() -> None:
    other = score(*some_maps(20, 7))
    thresholds = tune_thresholds(other, "ImageNetV2")
    found = localization(scores(), thresholds, CLASSIFIED)
    largest, every = reference("largest"), reference("every")
    known = largest[:, THRESHOLDS.index(thresholds.largest)]
    assert thresholds.choice == "ImageNetV2"
    assert found.thresholds == thresholds
    assert found.gt_known.value == pytest.approx((known >= 0.5).mean())
    assert found.top1_error is not None
    assert found.top1_error.value == pytest.approx(1 - ((known >= 0.5) & CLASSIFIED).mean())
    pairs = zip(thresholds.every, IOUS_V2, strict=True)
    at = [(every[:, THRESHOLDS.index(tau)] >= iou).mean() for tau, iou in pairs]
    assert [each.value for each in found.v2_at] == pytest.approx(at)
    assert [e.value for e in found.curve] == pytest.approx([(known >= t).mean() for t in CURVE])
    oracle = localization(scores(), None)
    assert oracle.gt_known.value >= found.gt_known.value
    assert oracle.v2.value >= found.v2.value
    assert oracle.top1_error is None


def test_the_older_way_is_a_fifth_of_the_largest_value_without_taking_the_least_away() -> None:
    raw = np.random.default_rng(0).normal(size=(6, 7, 7)) + 0.5
    maps = upsample(raw, NAMES[:6], "max", SIDE)
    found = score(maps, TRUTHS[:6], NAMES[:6])
    expected = []
    for image, truths in zip(maps, TRUTHS, strict=False):
        boxes, largest = reference_boxes((image.astype(np.float64) * 255).astype(np.uint8), 0.2)
        iou = max(reference_iou(boxes[largest], truth) for truth in truths.tolist())
        expected.append(iou >= 0.1)
    assert found.hits_at("largest", 0.1, 0.2).tolist() == expected
    assert set(expected) == {True, False}
    assert fixed_thresholds() == Thresholds("fixed", 0.2, (0.2, 0.2, 0.2))


def test_batches_joined_are_the_whole() -> None:
    slices = [slice(at, at + 7) for at in range(0, 24, 7)]
    whole = concatenate([score(MAPS[part], TRUTHS[part], NAMES[part]) for part in slices])
    assert (whole.iou == scores().iou).all()
    assert (whole.top == scores().top).all()


def test_a_fixed_box_is_one_answer_at_every_threshold() -> None:
    for box in (whole_image(SIDE), centre_box(0.8, SIDE)):
        best = [max(reference_iou(box.tolist(), t) for t in of.tolist()) for of in TRUTHS]
        found = score_box(box, TRUTHS)
        for iou in CURVE:
            right = np.array(best) >= iou
            assert (found.hits("largest", iou) == right[:, None]).all()
            assert (found.hits_at("every", iou, 0.2) == right).all()


def test_targets_are_scaled_by_their_own_images() -> None:
    truth = GroundTruth(
        ("a", "b"),
        np.array([[500, 375], [100, 50]]),
        np.array([0, 1]),
        np.array([[111, 108, 441, 193], [0, 0, 99, 49], [10, 20, 30, 40]]),
        np.array([0, 1, 3]),
    )
    a, b = targets(truth)
    assert a.tolist() == [[49, 64, 197, 115]]
    assert b.tolist() == [[0, 0, 221, 219], [22, 89, 67, 179]]


# ---- maps ---------------------------------------------------------------------------------------


def test_maps_are_upsampled_as_torch_does_bicubically() -> None:
    raw = np.random.default_rng(0).normal(size=(5, 14, 14)).astype(np.float32)
    large = F.interpolate(torch.from_numpy(raw)[None], size=(224, 224), mode="bicubic")[0].numpy()
    unit = large - large.min((1, 2), keepdims=True)
    unit /= unit.max((1, 2), keepdims=True)
    ours = upsample(raw, NAMES)
    assert np.abs(ours - unit).max() < 1e-5
    assert (ours.min((1, 2)) == 0).all()
    assert (ours.max((1, 2)) == 1).all()
    above = large.clip(0) / large.max((1, 2), keepdims=True)
    assert np.abs(upsample(raw, NAMES, "max") - above).max() < 1e-5


def test_a_map_without_any_contrast_is_empty_and_misses() -> None:
    raw = np.stack([np.full((7, 7), 3.0), np.zeros((7, 7)), np.full((7, 7), -2.0)])
    flat = upsample(raw, NAMES[:3], side=SIDE)
    assert (flat == 0).all()
    assert upsample(raw, NAMES[:3], "max", SIDE).max((1, 2)).tolist() == [1, 0, 0]
    found = score(flat, TRUTHS[:3], NAMES[:3])
    assert found.empty.all()
    assert localization(found, None).gt_known.value == 0
    assert localization(found, None).empty == 3


WRONG = {
    "NaN": ((2, 0, 0, np.nan), TRUTHS, "the map of image 2 is not finite"),
    "infinite": ((4, 1, 1, np.inf), TRUTHS, "the map of image 4 is not finite"),
    "above 1": ((1, 3, 3, 1.01), TRUTHS, "the map of image 1 has values from 0 to 1.01"),
    "below 0": ((1, 3, 3, -0.2), TRUTHS, "the map of image 1 has values from -0.2 to 1"),
    "outside": (
        (0, 0, 0, 0),
        [np.array([[0, 0, 33, 5]]), *TRUTHS[1:]],
        "boxes of image 0 lie outside its map",
    ),
    "negative": (
        (0, 0, 0, 0),
        [np.array([[-1, 0, 3, 5]]), *TRUTHS[1:]],
        "boxes of image 0 lie outside its map",
    ),
    "reversed": (
        (0, 0, 0, 0),
        [np.array([[4, 0, 3, 5]]), *TRUTHS[1:]],
        "boxes of image 0 lie outside its map",
    ),
    "boxless": ((0, 0, 0, 0), [TRUTHS[0][:0], *TRUTHS[1:]], "image 0 has no ground-truth box"),
    "too few": ((0, 0, 0, 0), TRUTHS[1:], "24 maps, 23 lists of boxes, 24 names"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_scored_is_named(case: str) -> None:
    (image, y, x, value), truths, message = WRONG[case]
    maps = MAPS.copy()
    maps[image, y, x] = value
    with pytest.raises(ValueError, match=message):
        score(maps, truths, NAMES)


def test_maps_of_no_size_or_of_nan_are_refused_before_they_are_scaled() -> None:
    with pytest.raises(ValueError, match=r"\(N, H, W\) and not empty, not \(3, 0, 7\)"):
        upsample(np.zeros((3, 0, 7)), NAMES)
    with pytest.raises(ValueError, match=r"not \(7, 7\)"):
        score(np.zeros((7, 7)), TRUTHS[:7], NAMES[:7])
    raw = np.zeros((2, 7, 7))
    raw[1, 2, 2] = np.nan
    with pytest.raises(ValueError, match="the map of image 1 is not finite"):
        upsample(raw, NAMES)


def test_an_iou_that_is_not_kept_and_answers_for_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        scores().hits("every", 1 / 3)
    with pytest.raises(ValueError, match=r"correct has shape .* for 24 images"):
        localization(scores(), None, CLASSIFIED[1:])


# ---- intervals ----------------------------------------------------------------------------------


def test_the_interval_of_a_share_is_the_binomials() -> None:
    """The bootstrap of a mean of n zeros and ones is a binomial over n."""
    values = np.arange(400) < 100
    found = bootstrap.estimate(Resamples(400, 4000).means(values))
    deviation = (0.25 * 0.75 / 400) ** 0.5
    assert found.value == 0.25
    assert found.low == pytest.approx(0.25 - 1.96 * deviation, abs=0.003)
    assert found.high == pytest.approx(0.25 + 1.96 * deviation, abs=0.003)


def test_the_oracle_chooses_anew_in_each_resample() -> None:
    resamples = Resamples(24, 150)
    found = localization(scores(), None, CLASSIFIED, resamples)
    known, wrong, second = [], [], []
    for weights in resamples.weights[1:]:
        again = np.repeat(np.arange(24), weights)
        hits = reference("largest")[again] >= 0.5
        best = hits.mean(0).argmax()
        known.append(hits.mean(0).max())
        wrong.append(1 - (hits[:, best] & CLASSIFIED[again]).mean())
        every = reference("every")[again]
        second.append(np.mean([(every >= iou).mean(0).max() for iou in IOUS_V2]))
    assert found.top1_error is not None
    for each, values in ((found.gt_known, known), (found.top1_error, wrong), (found.v2, second)):
        expected = np.quantile(values, [0.025, 0.975])
        assert [each.low, each.high] == pytest.approx(expected)
        assert each.low < each.high


def test_resamples_hang_on_the_seed_alone_and_draw_as_many_images() -> None:
    one, same, other = Resamples(50, 20), Resamples(50, 20), Resamples(50, 20, seed=1)
    assert (one.weights == same.weights).all()
    assert (one.weights != other.weights).any()
    assert (one.weights.sum(1) == 50).all()
    assert (one.weights[0] == 1).all()


def test_the_means_of_resamples_are_the_means_of_what_was_drawn() -> None:
    resamples, values = Resamples(24, 250), scores().hits("every", 0.5)
    drawn = [values[np.repeat(np.arange(24), weights)].mean(0) for weights in resamples.weights]
    assert resamples.means(values) == pytest.approx(np.array(drawn))
    assert resamples.means(CLASSIFIED).shape == (251,)
