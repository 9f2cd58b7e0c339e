"""How often verdicts are wrong: simulated papers with known truth, judged like ours.

    python benchmarks/verdicts.py > benchmarks/verdicts.txt

Each paper has one claim at the border between true and false: every effect is exactly the required
minimum. There both 'holds' and 'contradicted' are wrong, and most frequent.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from repro.core.verdict import Pair, Sample, Unit, Word, compare, judge

PAPERS = 10_000
IMAGES = 100  # simulated scores; scaled so that the number has no effect
MARGIN = 1.0
FAR = 20.0  # a large effect, in standard deviations over seeds
_LEVEL = 50.0  # of the compared cells, in the unit of the metric


@dataclass(frozen=True)
class World:
    """The truth in a set of papers.

    `spreads`: standard deviations over seeds above and below. `images`: the standard error of a
    difference over the test images, which more seeds do not reduce. `far`: all pairs but one have
    effects far beyond the required one.
    """

    name: str
    pairs: int = 1
    seeds: tuple[int, int] = (3, 3)
    images: float = 0.0
    spreads: tuple[float, float] = (1.0, 1.0)
    size: float = 0.0
    unit: Unit = "points"
    far: bool = False
    difference: bool = False
    constant: bool = False
    beyond: float = 0.0  # by how much effects exceed the required one
    then: int = 0  # seeds of a second look, if the first is undecided


Draw = np.random.Generator


def rates(world: World, papers: int, seed: int = 0) -> dict[str, float]:
    """The percentage of papers in which the claim gets each verdict."""
    draw = np.random.default_rng(seed)
    words = Counter(_word(world, draw) for _ in range(papers))
    return {word: 100 * count / papers for word, count in words.items()}


def _word(world: World, draw: Draw) -> Word:
    """The verdict on one paper's claim, after a second look if there is one."""
    if not world.then:
        return judge(_pairs(world, draw), world.size, world.unit).word
    more = _pairs(replace(world, seeds=(world.then, world.then)), draw)
    looks = [[_first(pair, world.seeds[0]) for pair in more], more]
    words = [judge(pairs, world.size, world.unit, looks=2).word for pairs in looks]
    return words[0] if words[0] != "undecided" else words[1]


def _first(pair: Pair, seeds: int) -> Pair:
    """The pair as it was after the first seeds."""
    above, below = (tuple(_earlier(sample, seeds) for sample in side)
                    for side in (pair.above, pair.below))  # fmt: skip
    return Pair(above, below)


def _earlier(sample: Sample, seeds: int) -> Sample:
    values = sample.values[:seeds]
    shift = float(np.mean(values)) - sample.mean
    return replace(
        sample, values=values, scores=None if sample.scores is None else sample.scores + shift
    )


def _pairs(world: World, draw: Draw) -> list[Pair]:
    """The pairs of one paper's claim, which share what is above."""
    level = _LEVEL * (world.size if world.unit == "ratio" else 1.0)
    above = _sample(world, draw, 0, level)
    return [
        _pair(world, draw, above, level, FAR * max(world.spreads) if world.far and i else 0.0)
        for i in range(world.pairs)
    ]


def _pair(world: World, draw: Draw, above: Sample, level: float, far: float) -> Pair:
    """A pair; for a difference, with one more cell on each side, so that the effects cancel."""
    required = {
        "points": world.size,
        "ratio": level - _LEVEL,
        "spreads": world.size * _pooled(world),
    }
    mean = level - required[world.unit] - far - world.beyond
    below = (
        Sample((mean,), is_stochastic=False) if world.constant else _sample(world, draw, 1, mean)
    )
    if not world.difference:
        return Pair((above,), (below,))
    return Pair((above, _sample(world, draw, 0, level)), (below, _sample(world, draw, 1, level)))


def _pooled(world: World) -> float:
    return float(np.sqrt(np.mean(np.square(world.spreads))))


def _sample(world: World, draw: Draw, side: int, mean: float) -> Sample:
    """The seeds of one cell, which share its test images."""
    seeds = mean + world.spreads[side] * draw.standard_normal(world.seeds[side])
    scores = _images(world, draw)
    if scores is None:
        return Sample(tuple(seeds.tolist()))
    values = seeds + scores.mean()
    return Sample(tuple(values.tolist()), scores + seeds.mean())


def _images(world: World, draw: Draw) -> NDArray[np.float64] | None:
    """By how much the cell's score on each image exceeds its mean over all possible images."""
    if not world.images:
        return None
    part = world.images / (1.0 if world.constant else np.sqrt(2))
    return np.asarray(part * np.sqrt(IMAGES) * draw.standard_normal(IMAGES))


# --- a number of the paper -----------------------------------------------------------------------


def agreements(seeds: int, world: str, margin: float, papers: int) -> dict[str, float]:
    """The percentage of each verdict for runs with spread 1 against a printed number.

    Our mean is `margin` above the number itself (world 'number'), or above the mean of the runs
    that the number is one of (world 'run').
    """
    draw, words = np.random.default_rng(0), Counter[str]()
    for _ in range(papers):
        ours = Sample(tuple((margin + draw.standard_normal(seeds)).tolist()))
        printed = float(draw.standard_normal()) if world == "run" else 0.0
        words[compare(ours, printed, margin).word] += 1
    return {word: 100 * count / papers for word, count in words.items()}


# --- the table -----------------------------------------------------------------------------------


def worlds() -> Iterator[World]:
    """All combinations: pairs, seeds, test images, margins, differences, spreads."""
    sizes = [((n, n), images) for n in (3, 5) for images in (0.0, 0.8)]
    for pairs in (1, 2, 4, 6):
        for seeds, images in sizes:
            yield World("equal spreads", pairs, seeds, images)
    for pairs in (2, 6):
        for seeds, images in sizes:
            yield World("one pair at the border", pairs, seeds, images, far=True)
    for pairs in (1, 2, 4, 6):
        for seeds, images in sizes:
            yield World("spreads 1 and 4", pairs, seeds, images, (1.0, 4.0))
    for seeds, images in sizes:
        yield World("spreads 4 and 1", 1, seeds, images, (4.0, 1.0))
    for pairs in (1, 6):
        for images in (0.0, 0.8):
            yield World("15 seeds and 3, spreads 1 and 4", pairs, (15, 3), images, (1.0, 4.0))
    for size in (-0.5, 2.0):
        for seeds, images in sizes:
            yield World(f"margin {size:+g}", 2, seeds, images, size=size)
    for spreads in ((1.0, 1.0), (1.0, 4.0)):
        for seeds, images in sizes:
            name = f"difference, spreads {spreads[0]:g} and {spreads[1]:g}"
            yield World(name, 1, seeds, images, spreads, difference=True)
    for pairs in (1, 4):
        for spreads in ((1.0, 1.0), (1.0, 4.0)):
            for images in (0.0, 0.8):
                name = f"three seeds, then five; {spreads[0]:g} and {spreads[1]:g}"
                yield World(name, pairs, (3, 3), images, spreads, then=5)
    for seeds, images in sizes:
        yield World("a constant below", 1, seeds, images, constant=True)
    for seeds, images in sizes:
        yield World("ratio of 2", 1, seeds, images, size=2.0, unit="ratio")
    for spreads in ((1.0, 1.0), (1.0, 4.0)):
        for seeds, images in sizes:
            name = f"3 spreads, {spreads[0]:g} and {spreads[1]:g}"
            yield World(name, 1, seeds, images, spreads, size=3.0, unit="spreads")


def lines(papers: int) -> Iterator[str]:
    """The table, a line per world; then how often true claims hold, and the paper's numbers."""
    yield f"Of {papers:,} papers, in percent. Every 'holds' and every 'contradicted' is false."
    yield ""
    yield from _table(worlds(), papers)
    yield ""
    yield "True claims, whose effects are 3 standard deviations over seeds, that hold:"
    yield ""
    yield from _table(_true(), papers)
    yield ""
    yield f"Beside a number of the paper, with a margin of {MARGIN} standard deviations over seeds:"
    yield ""
    yield f"{'what':57} seeds   false"
    for seeds in (3, 5, 20):
        shares = agreements(seeds, "number", MARGIN, papers)
        name = "our mean is the margin away: reproduced"
        yield f"{name:57} {seeds:5} {shares.get('reproduced', 0):7.2f}"
    for seeds in (3, 5, 20):
        shares = agreements(seeds, "run", MARGIN, papers)
        apart = shares.get("better", 0) + shares.get("worse", 0)
        name = "the mean of the paper's runs is the margin away: better"
        yield f"{name:57} {seeds:5} {apart:7.2f}"


def _table(rows: Iterable[World], papers: int) -> Iterator[str]:
    yield f"{'what':31} pairs seeds images   holds  contradicted"
    for world in rows:
        words = rates(world, papers)
        yield (
            f"{world.name:31} {world.pairs:5} {world.seeds[0]:5} {world.images:6.1f}"
            f" {words.get('holds', 0):7.2f} {words.get('contradicted', 0):13.2f}"
        )


def _true() -> Iterator[World]:
    for pairs in (1, 4):
        for seeds in (3, 5):
            for images in (0.0, 0.8):
                yield World("true", pairs, (seeds, seeds), images, beyond=3.0)


def main() -> None:
    parser = argparse.ArgumentParser(description="How often verdicts are false.")
    parser.add_argument("--papers", type=int, default=PAPERS)
    for line in lines(parser.parse_args().papers):
        print(line, flush=True)


if __name__ == "__main__":
    main()
