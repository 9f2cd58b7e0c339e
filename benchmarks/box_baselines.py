"""Baselines of localization on the public boxes of ImageNet val: no model, one box for all.

    python benchmarks/box_baselines.py --data DIR [--out benchmarks/box_baselines.txt]

DIR/wsol/test holds wsolevaluation's metadata.
"""

import argparse
from pathlib import Path

from repro.data.imagenet.ground_truth import GroundTruth, read
from repro.interpret.box_accuracy import localization
from repro.interpret.box_iou import score_box, targets
from repro.interpret.boxes import centre_box, whole_image


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".txt"))
    args = parser.parse_args()
    text = "\n".join([*baselines(read(args.data)), ""])
    print(text, end="")
    args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
