"""Verdicts as text: each quotation of the paper, with a line for each test of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from repro.core.cells import HOLE
from repro.core.claims import VERDICTS, JudgedClaim, Side
from repro.core.measures import measure
from repro.core.numbers import number, rounded
from repro.core.verdict import LEVEL
from repro.spec import Scale

HEADING = "Claims of the paper (rules: docs/verdicts.md)."

Note = tuple[str, Sequence[str]]  # a paragraph and the list items below it


def notes(claims: Sequence[JudgedClaim], scale: Scale) -> list[Note]:
    """The number of tested claims, then each quotation with a line for each test of it."""
    return [(HEADING, summary(claims)), *by_quote(claims, scale)] if claims else []


def by_quote(claims: Sequence[JudgedClaim], scale: Scale) -> list[Note]:
    """Each quotation with its place, and a line for each test of it."""
    quotes = dict.fromkeys((each.claim.quote, each.claim.place) for each in claims)
    return [
        (f"“{quote}” ({place})", _lines([e for e in claims if e.claim.quote == quote], scale))
        for quote, place in quotes
    ]


def summary(claims: Sequence[JudgedClaim]) -> list[str]:
    """The number of tested claims, their verdicts, and the expected number of false ones."""
    tested = sum(each.is_tested for each in claims)
    total = f"{len(claims)} claim{'s' * (len(claims) != 1)}"
    if not tested:
        return [f"{total}; none tested yet."]
    wrong = rounded(tested * LEVEL, 2).rstrip("0").rstrip(".")
    counts = Counter(each.verdict for each in claims if each.is_tested)
    verdicts = ", ".join(f"{verdict} {counts[verdict]}" for verdict in VERDICTS if counts[verdict])
    return [
        f"{total}, {tested} tested: {verdicts}. At most {100 * LEVEL:g} % of tests give a false "
        f"verdict: up to {wrong} false verdicts are expected.",
        "Brackets: intervals of at least 90 %.",
    ]


def _lines(claims: Sequence[JudgedClaim], scale: Scale) -> list[str]:
    return [line(each, scale) for each in claims] + across_budgets(claims)


def across_budgets(claims: Iterable[JudgedClaim]) -> list[str]:
    """For tests at several budgets, whether the verdict changes."""
    by_test: dict[str, list[JudgedClaim]] = {}
    for each in claims:
        by_test.setdefault(each.claim.tested, []).append(each)
    return [
        _across_budgets(tested, steps)
        for tested, steps in by_test.items()
        if len(steps) > 1 and any(each.is_tested for each in steps)
    ]


def _across_budgets(tested: str, steps: Sequence[JudgedClaim]) -> str:
    """'Ours above theirs, by budget: undecided (1), holds (2); the verdict changes.'"""
    verdicts = ", ".join(f"{each.verdict} ({each.where})" for each in steps)
    word = "changes" if len({each.verdict for each in steps}) > 1 else "does not change"
    return f"{tested}, by budget: {verdicts}; the verdict {word}."


def line(claim: JudgedClaim, scale: Scale) -> str:
    """'Holds: ours above theirs. Ours: 77.50, 76.40 against Theirs: ... (ImageNet); ...'"""
    at_scale = "" if scale == "paper" else f" at {scale} scale"
    text = f"{claim.verdict.capitalize()}{at_scale}: {claim.claim.tested}."
    if claim.verdict == "not run":
        return f"{text} {_capital(claim.why)}."
    where = f" ({claim.where})" if claim.where else ""
    against = f" against {_side(claim.below)}" if claim.below else ""
    parts = [f"{_side(claim.above)}{against}{where}"]
    parts += [part for part in (_effect(claim), _requirement(claim), claim.why) if part]
    text += f" {'; '.join(parts)}."
    if claim.pairs > 1 and not claim.why:
        text += f" This is the decisive one of {claim.pairs} pairs."
    return f"{text} {budget(claim)}".rstrip()


def _side(side: Side) -> str:
    """'Ours: 96.10, 95.90, diverged'."""
    texts = [*(number(value, side.metric) for value in side.values), *side.lost]
    name = f"{side.name}: " if side.name else ""
    return f"{name}{', '.join(texts) or HOLE}"


def _effect(claim: JudgedClaim) -> str:
    """'difference 12.45 [10.10, 14.80]', or a ratio, or a difference in spreads."""
    if claim.effect is None or claim.interval is None:
        return ""
    low, high = (size(claim, end) for end in claim.interval)
    words = {"points": "difference", "ratio": "ratio", "spreads": "difference in spreads"}
    word = words[claim.unit] if claim.below else "mean"
    return f"{word} {size(claim, claim.effect)} [{low}, {high}]"


def size(claim: JudgedClaim, value: float) -> str:
    """An effect in the format of its metric."""
    if claim.unit == "points" and measure(claim.above.metric).digits:
        return number(value, claim.above.metric)
    return rounded(value, 2)


def _requirement(claim: JudgedClaim) -> str:
    """'minimum effect 3.00 (why)'."""
    min_effect = claim.claim.min_effect
    if min_effect is None or claim.verdict == "not trained enough":
        return ""
    if claim.size is None:
        return (
            ""
            if min_effect.size < 0
            else "direction only: the minimum effect in points applies at paper scale"
        )
    return f"minimum effect {size(claim, min_effect.size)} ({min_effect.why})"


def budget(claim: JudgedClaim) -> str:
    """'Trained for 4 epochs of 6,000 images, with 0.25M and 0.27M parameters.'"""
    if not claim.trainings:
        return ""
    lengths = dict.fromkeys(training.length for training in claim.trainings)
    sizes = [t.parameters for t in claim.trainings if t.parameters is not None]
    counts = dict.fromkeys(number(count, "parameters") for count in sizes)
    of = f", with {' and '.join(counts)} parameters" if counts else ""
    return f"Trained for {' and '.join(lengths)}{of}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
