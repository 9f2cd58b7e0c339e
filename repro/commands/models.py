"""Commands that use a trained model: images from a generator, explanations of a classifier."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from repro.commands.parsing import argument, option
from repro.commands.selection import run_named
from repro.commands.shared import WithData, WithResults
from repro.commands.usage import UsageError
from repro.commands.values import data_folder, number, output_path, path_of, weights_folder
from repro.spec import TIMM

MAX_CLASSES = 4  # that a figure can distinguish
MAX_SAMPLES = 4096  # a grid of 64 x 64
MAX_SEED = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Sample(WithResults):
    """generate images with a finished run: sample RUN --n 64 --seed 0

    Generate images with a finished run, as a PNG grid.
    """

    run: str = argument("the id of a run, or a prefix of it")
    n: int = option("default: 64", read=number("--n", MAX_SAMPLES), default=64, metavar="N")
    seed: int = option("default: 0", read=number("--seed", MAX_SEED, least=0), default=0,
                       metavar="N")  # fmt: skip
    out: Path | None = option("default: <run>-<seed>.png, here", read=output_path, metavar="FILE")

    def execute(self) -> int:
        from repro import results
        from repro.launch import samples

        name = run_named(self.run, self.results)
        out = self.out or Path(f"{name}-{self.seed}.png")
        results.write(out, samples.draw(self.results, name, self.n, self.seed))
        print(out)
        return 0


@dataclass(frozen=True, kw_only=True)
class Explain(WithData, WithResults):
    """attribution maps of a trained classifier: explain IMAGE --run RUN --classes tench,3

    GradCAT's tree, if the classifier has blocks in a tree, and attribution maps, as SVG and PNG.
    """

    image: Path = argument("JPEG, PNG, TIFF, WebP, AVIF, JPEG 2000 or another format that Pillow "
                           "decodes", read=path_of)  # fmt: skip
    run: str = option(
        "a trained classifier: its id or a prefix of it; or timm:<tag>, released weights that the "
        "paper's items test",
        metavar="RUN", is_required=True,
    )  # fmt: skip
    weights: Path | None = option(
        "a file in place of the run's weights; for timm:<tag>, the folder of released ones "
        "(REPRO_WEIGHTS)",
        read=path_of, metavar="PATH",
    )  # fmt: skip
    classes: str | None = option("names or numbers (default: the most probable ones)",
                                 metavar="CLASS,...", exclusive="classes")  # fmt: skip
    top: int | None = option(
        "number of most probable classes (default and maximum: 4)",
        read=number("--top", MAX_CLASSES), metavar="N", exclusive="classes",
    )  # fmt: skip
    out: Path = option("default: here", read=output_path, default=Path(), metavar="DIR")

    def execute(self) -> int:
        from repro.launch import explanation
        from repro.render import pictures
        from repro.results import write

        is_released = self.run.startswith(TIMM)
        if is_released and self.data:
            raise UsageError(
                f"--data is for a run of yours; {self.run} knows its classes: take it out"
            )
        name = self.run if is_released else run_named(self.run, self.results)
        run = explanation.run_of(name, self.results)
        classes = self.classes.split(",") if self.classes else []
        if len(classes) > MAX_CLASSES:
            raise UsageError(f"at most {MAX_CLASSES} classes can be told apart in one picture")
        if self.out.exists() and not self.out.is_dir():
            raise UsageError(f"--out {self.out} is a file; name a folder")
        weights = self.weights or (weights_folder() if is_released else None)
        count, data = self.top or MAX_CLASSES, self.data or data_folder()
        result = explanation.explain(self.image, run, weights, classes, count, self.results, data)
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write to {self.out}: {error.strerror}") from error
        title = f"{self.image.name}, {name}"
        files = pictures.files(title, result.trees, result.maps, result.method, result.classes)
        for ending, content in files.items():
            path = self.out / f"{self.image.stem}-{ending}"
            write(path, content)
            print(path)
        if result.note:
            print(f"repro: {result.note}", file=sys.stderr)
        return 0
