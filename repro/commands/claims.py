"""The command about the paper's claims."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from repro import paper
from repro.commands.parsing import option, switch
from repro.commands.selection import awaited_search, item_names, seeds_to_show
from repro.commands.shared import WithItems, WithResults, WithSeeds
from repro.core import output, records, terminal
from repro.core.terminal import Prose
from repro.spec import VERDICT_SCALES, Experiment, Scale

if TYPE_CHECKING:
    from repro.core.claims import JudgedClaim


@dataclass(frozen=True, kw_only=True)
class Claims(WithItems, WithSeeds, WithResults):
    """the paper's claims, what is tested of each, and the verdict: claims [ITEM...]

    Every claim of the paper, what is tested of it, and what the results say.
    """

    scale: Scale = option("default: paper", default="paper", choices=VERDICT_SCALES)
    json: bool = switch("for programs")

    def execute(self) -> int:
        items = item_names(self.items)
        by_item = [(experiment, _judge(experiment, self))
                   for name in items or paper.current().names()
                   if (experiment := paper.current().get(name)).claims]  # fmt: skip
        if self.json:
            rows = [
                _row(experiment, judgement)
                for experiment, judgements in by_item
                for judgement in judgements
            ]
            print(records.encode(rows, indent=1))
            return 0
        for experiment, judgements in by_item:
            if judgements:
                terminal.show(*_parts(experiment, judgements, self.scale), "")
        terminal.show(
            *_summary([judgement for _, judgements in by_item for judgement in judgements])
        )
        if later := awaited_search(
            [item.name for item, judgements in by_item if not judgements], self.scale
        ):
            terminal.show(Prose(f"No claims yet of {later}."))
        return 0


def _judge(experiment: Experiment, args: Claims) -> list[JudgedClaim]:
    from repro.core.claims import judge_claims
    from repro.render.frame import tidy

    seeds = seeds_to_show(args.seeds, args.results)(experiment, args.scale)
    frame, warnings = tidy(experiment, args.scale, args.results, seeds)
    for warning in warnings:
        output.warn(warning)
    return judge_claims(experiment, frame, args.scale)


def _row(experiment: Experiment, judgement: JudgedClaim) -> dict[str, object]:
    """A claim for programs; an end of an interval that is infinite is null."""
    claim, interval = judgement.claim, judgement.interval
    ends = [end if math.isfinite(end) else None for end in interval] if interval else None
    return {
        "item": experiment.name,
        "quote": claim.quote,
        "place": claim.place,
        "tested": claim.tested,
        "above": claim.above,
        "below": claim.below,
        "verdict": judgement.verdict,
        "why": judgement.why,
        "effect": judgement.effect,
        "unit": judgement.unit,
        "least": judgement.size,
        "interval": ends,
        "n": [side.n for side in (judgement.above, judgement.below) if side],
        "trained": [training.length for training in judgement.trainings],
    }


def _parts(
    experiment: Experiment, judgements: Sequence[JudgedClaim], scale: Scale
) -> Iterator[terminal.Part]:
    """A heading, then every quotation with a paragraph for each test of it."""
    from repro.render.claims import by_quote

    yield f"{experiment.name}  {experiment.place}. {experiment.title}"
    for quote, tests in by_quote(judgements, scale):
        yield Prose(quote, 2)
        yield from (Prose(f"- {test}", 4) for test in tests)


def _summary(judgements: Sequence[JudgedClaim]) -> list[Prose]:
    from repro.render.claims import HEADING, summary

    return [Prose(line) for line in (HEADING, *summary(judgements))]
