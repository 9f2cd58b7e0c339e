"""Baselines on the public boxes of ImageNet val, and the time that scoring a map takes.

    python benchmarks/localization.py --data DIR [--maps 300] [--out benchmarks/localization.txt]

DIR/wsol/test holds wsolevaluation's metadata. The maps are 14 x 14 noise, min-max scaled after a
bicubic interpolation to 224 x 224, each against the boxes of one image; they cut into more contours
than a network's maps do. The reference is a plain sweep of the protocol, all 1,000 thresholds one
after another, with every contour's box, as wsolevaluation's evaluator does; ours gives the largest
contour's as well in the same pass. Both run on one core, in turns, and must agree on every IoU.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from repro.data.ground_truth import GroundTruth, read
from repro.interpret.box_accuracy import localization
from repro.interpret.boxes import Boxes, centre_box, whole_image
from repro.interpret.localization import (
    PARTS,
    TAUS,
    Maps,
    Scores,
    cuts_of,
    score,
    score_box,
    targets,
    upsampled,
)

IMAGES = 50_000
Answer = TypeVar("Answer")


def reference(image: Maps, truths: Boxes) -> npt.NDArray[np.float64]:
    """The best IoU (1000,) of a map at each threshold, every contour and every true box."""
    side = len(image)
    grey = (image * 255).astype(np.uint8)
    found, counts = [], []
    for tau in TAUS:
        mask = cv2.threshold(grey, int(tau * np.max(grey)), 255, cv2.THRESH_BINARY)[1]
        contours = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        boxes = [[0, 0, 0, 0]] if len(contours) == 0 else []
        for contour in contours:
            x, y, width, height = cv2.boundingRect(contour)
            boxes.append([x, y, min(x + width, side - 1), min(y + height, side - 1)])
        found.append(np.asarray(boxes))
        counts.append(len(boxes))
    a, b = np.concatenate(found)[:, None].astype(np.float64), truths[None].astype(np.float64)
    across = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0]) + 1
    down = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1]) + 1
    shared = np.maximum(0, across) * np.maximum(0, down)
    of_a, of_b = ((c[..., 2] - c[..., 0] + 1) * (c[..., 3] - c[..., 1] + 1) for c in (a, b))
    best = (shared / (of_a + of_b - shared)).max(1)
    return np.array([part.max() for part in np.split(best, np.cumsum(counts)[:-1])])


def references(maps: Maps, truths: list[Boxes]) -> list[npt.NDArray[np.float64]]:
    return [reference(image, boxes) for image, boxes in zip(maps, truths, strict=True)]


def noise_maps(count: int) -> Maps:
    raw = np.random.default_rng(0).normal(size=(count, 14, 14)).astype(np.float32)
    return upsampled(raw, [f"noise {number}" for number in range(count)])


def timed(run: Callable[[], Answer]) -> tuple[float, Answer]:
    start = time.process_time()
    answer = run()
    return time.process_time() - start, answer


def agree(ours: Scores, references: list[npt.NDArray[np.float64]]) -> bool:
    """Whether all IoUs are the same, in the ten-thousandths that ours keep."""
    cuts = cuts_of(TAUS, ours.top)
    mine = np.take_along_axis(ours.iou[:, 1].astype(np.int64), cuts, 1)
    theirs = np.floor(np.stack(references) * PARTS + 1e-6).astype(np.int64)
    return bool((mine == theirs).all())


def baselines(truth: GroundTruth) -> list[str]:
    boxes = targets(truth)
    counts = f"{len(truth):,} images, {len(truth.boxes):,} boxes; 224 x 224 px, inclusive"
    lines = [f"no model, on the boxes of ImageNet val: {counts}", ""]
    lines.append(f"{'':36}{'GT-known':>9}   95 % interval   MaxBoxAccV2")
    for name, box in (("whole image", whole_image()), ("centre box", centre_box())):
        found = localization(score_box(box, boxes), None)
        known, corners = found.gt_known, tuple(box.tolist())
        interval = f"{100 * known.low:.2f} to {100 * known.high:.2f}"
        row = f"{f'{name} {corners}':36}{100 * known.value:8.2f}%{interval:>17}"
        lines.append(f"{row}{100 * found.v2.value:13.2f}%")
    return lines


def speed(truth: GroundTruth, count: int) -> list[str]:
    """Each way in blocks of ten maps, in turns; the ratio is the median of the blocks' own."""
    maps, boxes = noise_maps(count), targets(truth)[:count]
    spent: list[tuple[float, float]] = []
    for at in range(0, count, 10):
        part, of_part, names = maps[at : at + 10], boxes[at : at + 10], truth.ids[at : at + 10]
        slow, theirs = timed(partial(references, part.astype(np.float64), of_part))
        fast, ours = timed(partial(score, part, of_part, names))
        if not agree(ours, theirs):
            raise SystemExit(f"maps {at} to {at + len(part)}: the two ways differ")
        spent.append((slow / len(part), fast / len(part)))
    slow, fast = (median(column) for column in zip(*spent, strict=True))
    ratio = median(slow / fast for slow, fast in spent)
    lines = [
        f"{count} maps of noise, 14 x 14 to 224 x 224 px, on one core; the same IoUs both ways"
    ]
    lines += ["", f"{'':36}{'ms/map':>9}{'minutes for 50,000, extrapolated':>35}"]
    for way, each in (("reference, 1,000 thresholds", slow), ("ours, distinct cuts", fast)):
        lines.append(f"{way:36}{1e3 * each:9.2f}{each * IMAGES / 60:35.1f}")
    return [*lines, f"{'ratio':36}{ratio:8.1f}x"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--maps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".txt"))
    given = parser.parse_args()
    cv2.setNumThreads(1)
    truth = read(given.data)
    text = "\n".join([*baselines(truth), "", *speed(truth, given.maps), ""])
    print(text, end="")
    given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
