"""Verbs that put a finished run to use: its generator draws, its classifier explains."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from repro.options import (
    UsageError,
    add_places,
    add_results,
    data_folder,
    number,
    parse,
    parser_of,
    path_of,
    weights_folder,
)
from repro.spec import TIMM
from repro.verbs.runs import run_named

MOST_CLASSES = 4  # that a picture tells apart
MOST_SAMPLES = 4096  # a grid of 64 x 64
MOST_SEED = 2**31 - 1


def sample(words: Sequence[str]) -> int:
    """draw images from a finished run's generator: sample RUN --n 64 --seed 0"""
    parser = parser_of("sample RUN", "Draw images from a finished run's generator, as a PNG grid.")
    parser.add_argument("run", help="a run's id, or its beginning")
    parser.add_argument("--n", type=number("--n", MOST_SAMPLES), default=64, metavar="N",
                        help="default: 64")  # fmt: skip
    parser.add_argument("--seed", type=number("--seed", MOST_SEED, least=0), default=0,
                        metavar="N", help="default: 0")  # fmt: skip
    parser.add_argument("--out", type=path_of, metavar="FILE",
                        help="default: <run>-<seed>.png, here")  # fmt: skip
    add_results(parser)
    given = parse(parser, words)

    from repro import results
    from repro.launch import samples

    name = run_named(given.run, given.results)
    out = Path(given.out or f"{name}-{given.seed}.png")
    results.write(out, samples.draw(given.results, name, given.n, given.seed))
    print(out)
    return 0


def explain(words: Sequence[str]) -> int:
    """what a classifier sees in a picture: explain IMAGE --run RUN --classes tench,3"""
    about = "GradCAT's tree, if the classifier is NesT, and attribution maps, as SVG and PNG."
    parser = parser_of("explain IMAGE", about)
    parser.add_argument("image", type=path_of, help="JPEG, PNG, TIFF, WebP, AVIF, JPEG 2000 or "
                        "another format that Pillow decodes")  # fmt: skip
    parser.add_argument("--run", required=True, metavar="RUN", help="a trained classifier: its id, "
                        "or its beginning; or timm:<tag>, released weights of Table 2")  # fmt: skip
    parser.add_argument("--weights", type=path_of, metavar="PATH", help="a file in place of the "
                        "run's weights; for timm:<tag>, the folder of released ones "
                        "(REPRO_WEIGHTS)")  # fmt: skip
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--classes", metavar="CLASS,...", help="names or numbers (default: the "
                        "most probable ones)")  # fmt: skip
    choice.add_argument("--top", type=number("--top", MOST_CLASSES),
                        metavar="N", help="how many of the most probable ones (default and "
                        "most: 4)")  # fmt: skip
    parser.add_argument("--out", type=path_of, default=Path(), metavar="DIR", help="default: here")
    add_places(parser)
    given = parse(parser, words)

    from repro.launch import explanation
    from repro.results import write

    released = given.run.startswith(TIMM)
    if released and given.data:
        raise UsageError(
            f"--data is for a run of yours; {given.run} knows its classes: take it out"
        )
    name = given.run if released else run_named(given.run, given.results)
    run = explanation.run_of(name, given.results)
    asked = given.classes.split(",") if given.classes else []
    if len(asked) > MOST_CLASSES:
        raise UsageError(f"at most {MOST_CLASSES} classes can be told apart in one picture")
    if given.out.exists() and not given.out.is_dir():
        raise UsageError(f"--out {given.out} is a file; name a folder")
    weights = given.weights or (weights_folder() if released else None)
    count, data = given.top or MOST_CLASSES, given.data or data_folder()
    found = explanation.explain(given.image, run, weights, asked, count, given.results, data)
    try:
        given.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {given.out}: {error.strerror}") from error
    from repro.render import pictures

    title = f"{given.image.name}, {name}"
    drawn = pictures.files(title, found.trees, found.maps, found.method, found.classes)
    for ending, content in drawn.items():
        path = given.out / f"{given.image.stem}-{ending}"
        write(path, content)
        print(path)
    if found.note:
        print(f"repro: {found.note}", file=sys.stderr)
    return 0
