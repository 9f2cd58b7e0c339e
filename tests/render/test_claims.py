"""Claims below a table: the quotation, the test, the verdict and its numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest

from repro.core.claims import JudgedClaim, judge_claims
from repro.render import claims, tables
from repro.render.latex import latex
from repro.spec import Claim, Experiment, MinEffect, Place, Scale, SpecError
from tests.render.sample import cell, fill_frame

ROWS = ("low", "middle", "high")
EXPERIMENT = Experiment(
    name="claims",
    place="Table 9",
    title="Claims",
    caption="A caption.",
    cells=tuple(cell(row, column) for row in ROWS for column in ("x", "y")),
)
VALUES: dict[tuple[str, str, str], list[float | None]] = {
    ("low", "x", ""): [60.0, 60.5, 61.0],
    ("middle", "x", ""): [70.0, 71.0, 72.0],
    ("high", "x", ""): [71.5, 80.0, 81.0],
    ("low", "y", ""): [10.0, 11.0, 12.0],
    ("middle", "y", ""): [69.0, 69.5, 69.9],
}
TRAINED = "Trained for 4 epochs of 6,000 images, with 0.25M parameters."


def order(above: str, *below: str, min_effect: MinEffect | None = None, column: str = "x") -> Claim:
    places: tuple[Place, ...] = tuple((row, column) for row in below)
    tested = f"{above} above {' and '.join(below)}"
    return Claim("the words", "Section 1", tested, ((above, column),), places, min_effect)


def judge_all(*of: Claim, scale: Scale = "paper") -> list[JudgedClaim]:
    experiment = replace(EXPERIMENT, claims=of)
    return judge_claims(experiment, fill_frame(experiment, VALUES, scale), scale)


def lines_of(*of: Claim, scale: Scale = "paper") -> list[str]:
    return [claims.line(each, scale) for each in judge_all(*of, scale=scale)]


def test_the_five_verdicts() -> None:
    holds, contradicted, undecided, untrained, missing = lines_of(
        order("middle", "low"),
        order("low", "middle"),
        order("high", "middle"),
        order("middle", "low", column="y"),
        order("middle", "high", column="y"),
    )
    assert holds == (
        "Holds: middle above low. middle: 70.00, 71.00, 72.00 against low: 60.00, 60.50, 61.00 "
        f"(x); difference 10.50 [8.76, 12.24]. {TRAINED}"
    )
    assert contradicted.startswith("Contradicted: low above middle. low: 60.00, 60.50, 61.00 ")
    assert "; difference -10.50 [-12.24, -8.76]. " in contradicted
    assert undecided.startswith("Undecided: high above middle. ")
    assert untrained.startswith("Not trained enough: middle above low. ")
    assert "; low has an accuracy of 11.00 %, below 19.00 %. " in untrained
    assert missing == "Not run: middle above high. High: not run."


def test_a_number_of_the_paper_s() -> None:
    """It is exceeded, or not; it has no seeds."""
    holds, contradicted = lines_of(
        order("middle", min_effect=MinEffect(69.0, "points", "what rounds to 70")),
        order("middle", min_effect=MinEffect(73.0, "points", "why")),
    )
    assert holds == (
        "Holds: middle above . 70.00, 71.00, 72.00 (middle, x); mean 71.00 [69.03, 72.97]; "
        f"minimum effect 69.00 (what rounds to 70). {TRAINED}"
    )
    assert contradicted.startswith("Contradicted: middle above . 70.00, 71.00, 72.00 ")


@pytest.mark.parametrize(
    ("min_effect", "word", "requirement"),
    [
        (MinEffect(5.0, "points", "why"), "Holds", "minimum effect 5.00 (why)"),
        (MinEffect(10.0, "points", "why"), "Undecided", "minimum effect 10.00 (why)"),
        (MinEffect(20.0, "points", "why"), "Contradicted", "minimum effect 20.00 (why)"),
        (
            MinEffect(1.1, "ratio", "why"),
            "Holds",
            "ratio 1.17 [1.15, 1.20]; minimum effect 1.10",
        ),
        (MinEffect(1.3, "ratio", "why"), "Contradicted", "minimum effect 1.30 (why)"),
        (MinEffect(3.0, "spreads", "why"), "Holds", "difference in spreads 13.28 ["),
        (MinEffect(99.0, "spreads", "why"), "Contradicted", "minimum effect 99.00 (why)"),
    ],
)
def test_the_minimum_effect(min_effect: MinEffect, word: str, requirement: str) -> None:
    (line,) = lines_of(order("middle", "low", min_effect=min_effect))
    assert line.startswith(f"{word}: ")
    assert requirement in line


def test_effects_in_points_apply_at_paper_scale_only() -> None:
    more, matches = MinEffect(20.0, "points", "why"), MinEffect(-20.0, "points", "why")
    of = order("middle", "low", min_effect=more), order("low", "middle", min_effect=matches)
    assert [each.verdict for each in judge_all(*of)] == ["contradicted", "holds"]
    direction, nothing = lines_of(*of, scale="proxy")
    assert direction.startswith("Holds at proxy scale: ")
    assert "; direction only: the minimum effect in points applies at paper scale. " in direction
    assert nothing.startswith("Undecided at proxy scale: ")
    assert "; its margin in points applies at paper scale only. " in nothing


def test_where_one_may_look_twice_each_look_has_half_the_level() -> None:
    """At proxy scale, unless the item has a number of seeds of its own."""
    item = replace(EXPERIMENT, claims=(order("middle", "low"),))
    scales: tuple[Scale, ...] = ("paper", "proxy")
    once, twice = (
        judge_claims(item, fill_frame(item, VALUES, scale), scale)[0] for scale in scales
    )
    fixed = replace(item, seeds=5)
    own = judge_claims(fixed, fill_frame(fixed, VALUES, "proxy"), "proxy")[0]
    assert once.interval
    assert twice.interval
    assert own.interval == once.interval
    assert twice.interval[0] < once.interval[0] - 0.4
    assert once.interval[0] < once.interval[1] < twice.interval[1]


def test_of_many_pairs_the_decisive_one_is_shown() -> None:
    (line,) = lines_of(order("high", "low", "middle"))
    assert line.startswith("Undecided: ")
    assert "high: 71.50, 80.00, 81.00 against middle: 70.00" in line
    assert "This is the decisive one of 2 pairs." in line
    (line,) = lines_of(order("low", "middle", "high"))
    assert line.startswith("Contradicted: ")
    assert "against middle: 70.00" in line  # high is less certain
    both = Claim("w", "p", "t", (("middle", "x"),), (("low", "x"), ("high", "y")))
    assert lines_of(both) == ["Not run: t. High, y: not run."]
    wrong = Claim("w", "p", "t", (("low", "x"),), (("middle", "x"), ("high", "y")))
    assert lines_of(wrong)[0].startswith("Contradicted: t. low, x: 60.00")


def test_a_diverged_run_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VALUES, ("low", "x", ""), [60.0, 60.5, 61.0, None])
    (line,) = lines_of(order("middle", "low"))
    assert line.startswith("Undecided: ")
    assert "low: 60.00, 60.50, 61.00, diverged (x); 1 of 4 runs of low diverged. " in line
    monkeypatch.setitem(VALUES, ("low", "x", ""), [None, None, None])
    (line,) = lines_of(order("middle", "low"))
    assert "against low: diverged, diverged, diverged (x); low: diverged. " in line


def test_two_seeds_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VALUES, ("low", "x", ""), [1.0, 2.0, None][:2])
    monkeypatch.setitem(VALUES, ("middle", "y", ""), [69.0, 70.0])
    monkeypatch.setitem(VALUES, ("low", "y", ""), [50.0, 51.0, 52.0])
    (line,) = lines_of(order("middle", "low", column="y"))
    assert "; middle has 2 of 3 required seeds. " in line


def test_equal_seeds_say_nothing_of_the_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VALUES, ("low", "x", ""), [60.0, 60.0, 60.0])
    assert judge_all(order("middle", "low"))[0].verdict == "holds"  # with the other's spread
    monkeypatch.setitem(VALUES, ("middle", "x", ""), [70.0, 70.0, 70.0])
    (line,) = lines_of(order("middle", "low"))
    assert line.startswith("Undecided: ")
    assert "; all seeds measured the same value. " in line


def test_a_difference_of_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    """high loses less from x to y than middle does: about 1 against 20."""
    monkeypatch.setitem(VALUES, ("high", "y", ""), [70.5, 78.0, 81.0])
    monkeypatch.setitem(VALUES, ("middle", "y", ""), [50.0, 50.5, 51.0])
    claim = Claim("s", "p", "t", (("high", "y"), ("middle", "x")), (("middle", "y"), ("high", "x")),
                  kind="difference")  # fmt: skip
    (line,) = lines_of(claim)
    assert line.startswith(
        "Holds: t. high, y − high, x: -1.00 against middle, y − middle, x: -20.50; "
        "difference 19.50 ["
    )
    flipped = replace(claim, above=claim.below, below=claim.above)
    assert lines_of(flipped)[0].startswith("Contradicted: ")
    monkeypatch.setitem(VALUES, ("middle", "y", ""), [None, None, None])
    assert "middle, y − middle, x: diverged, diverged, diverged; " in lines_of(claim)[0]


def test_a_control_that_fails_bars_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VALUES, ("high", "x", ""), [75.0, 80.0, 81.0])
    sound = replace(order("middle", "low"), controls=((("high", "x"), ("low", "x")),))
    assert judge_all(sound)[0].verdict == "holds"
    broken = replace(sound, controls=((("high", "x"), ("middle", "x")),))
    (line,) = lines_of(broken)
    assert line.startswith("Undecided: ")
    assert "; the positive control fails: high is not well above middle. " in line


def test_one_test_at_several_budgets_says_whether_it_changes() -> None:
    one, other = order("middle", "low"), order("middle", "high")
    same = [replace(claim, tested="A above B") for claim in (one, other, one)]
    assert claims.across_budgets(judge_all(*same)) == [
        "A above B, by budget: holds (x), undecided (x), holds (x); the verdict changes."
    ]
    assert claims.across_budgets(judge_all(same[0], same[2])) == [
        "A above B, by budget: holds (x), holds (x); the verdict does not change."
    ]
    assert claims.across_budgets(judge_all(one, other)) == []


def test_a_ladder_of_epochs_names_them() -> None:
    """As Figure 6, top, at proxy scale, whose columns are called by the epochs there."""
    columns = ("30", "60")
    cells = tuple(
        replace(one, proxy=replace(one.training, recipe=replace(one.training.recipe, epochs=n)))
        for row in ("A", "B")
        for column, n in zip(columns, (1, 2), strict=True)
        for one in [cell(row, column)]
    )
    tests = tuple(
        Claim("w", "p", "A above B", (("A", column),), (("B", column),)) for column in columns
    )
    item = Experiment(name="n", place="F", title="t", caption="c", cells=cells, claims=tests,
                      x="epochs")  # fmt: skip
    values = {("A", "30", ""): [50.0, 51.0, 52.0], ("B", "30", ""): [50.0, 51.5, 52.0],
              ("A", "60", ""): [80.0, 81.0, 82.0], ("B", "60", ""): [60.0, 61.0, 62.0]}  # fmt: skip
    steps = judge_claims(item, fill_frame(item, values, "proxy"), "proxy")
    assert claims.across_budgets(steps) == [
        "A above B, by budget: undecided (1), holds (2); the verdict changes."
    ]
    assert "A: 80.00, 81.00, 82.00 against B: 60.00, 61.00, 62.00 (2); " in claims.line(
        steps[1], "proxy"
    )


def test_the_summary_counts_tested_claims() -> None:
    tested = judge_all(
        order("middle", "low"), order("high", "middle"), order("high", "low", column="y")
    )
    assert [each.is_tested for each in tested] == [True, True, False]
    assert claims.summary(tested)[0] == (
        "3 claims, 2 tested: holds 1, undecided 1. At most 5 % of tests give a false "
        "verdict: up to 0.1 false verdicts are expected."
    )
    assert claims.summary(tested[2:]) == ["1 claim; none tested yet."]


def test_scales() -> None:
    experiment = replace(EXPERIMENT, claims=(order("middle", "low"),))
    words: dict[Scale, str] = {"paper": "- Holds: middle", "proxy": "- Holds at proxy scale: "}
    for scale, text in words.items():
        markdown = tables.markdown(experiment, fill_frame(experiment, VALUES, scale), scale)
        assert "\n“the words” (Section 1)\n" in markdown
        assert text in markdown
    small: tuple[Scale, ...] = ("demo", "smoke")
    for scale in small:
        frame = fill_frame(experiment, VALUES, scale)
        assert judge_claims(experiment, frame, scale) == []
        shown = tables.markdown(replace(experiment, title=""), frame, scale)
        assert "the words" not in shown


def test_latex_has_no_curly_quotes() -> None:
    experiment = replace(EXPERIMENT, claims=(order("middle", "low"),))
    source = latex(experiment, fill_frame(experiment, VALUES), "paper")
    assert "``the words'' (Section 1)" in source
    assert r"\item Holds: middle above low." in source
    assert source.isascii()


def test_a_claim_about_no_cell_is_refused() -> None:
    with pytest.raises(SpecError, match=r"claims: a claim refers to \('nowhere', 'x', ''\), which"):
        lines_of(order("nowhere", "low"))


def test_a_claim_about_cells_of_paper_scale_is_not_judged_in_small() -> None:
    released = cell("weights", "x", epochs=0)
    experiment = replace(
        EXPERIMENT, cells=(*EXPERIMENT.cells, released), claims=(order("weights", "low"),)
    )
    assert judge_claims(experiment, fill_frame(experiment, VALUES, "proxy"), "proxy") == []
    assert len(judge_claims(experiment, fill_frame(experiment, VALUES), "paper")) == 1


def distances(ours: list[float], theirs: list[float]) -> tuple[Experiment, pd.DataFrame]:
    """Of generated images, where less is better and no test images are scored."""
    fid = Experiment(
        name="claims",
        place="Table 9",
        title="Claims",
        caption="A caption.",
        cells=tuple(cell(row, "x", metric="fid") for row in ("ours", "theirs")),
        claims=(Claim("ours is best", "here", "t", (("theirs", "x"),), (("ours", "x"),)),),
    )
    frame = fill_frame(fid, {("ours", "x", ""): [*ours], ("theirs", "x", ""): [*theirs]})
    return fid, frame.assign(is_stochastic=True)


def test_of_distances_the_larger_is_above() -> None:
    (line,) = (
        claims.line(each, "paper")
        for each in judge_claims(*distances([20.0, 21.0, 22.0], [30.0, 31.0, 32.5]), "paper")
    )
    assert line.startswith(
        "Holds: t. theirs: 30.00, 31.00, 32.50 against ours: 20.00, 21.00, 22.00"
    )


def test_what_chance_has_no_part_in_needs_one_run() -> None:
    """A count is exact, and a speed is known to five percent."""
    sizes = tuple(cell(row, "x", metric="parameters") for row in ("small", "large"))
    speeds = tuple(cell(row, "v", metric="forward_images_per_second") for row in ("small", "large"))
    more = Claim("w", "p", "size", (("large", "x"),), (("small", "x"),))
    faster = Claim("w", "p", "speed", (("small", "v"),), (("large", "v"),))
    item = Experiment(name="n", place="T", title="t", caption="c", cells=(*sizes, *speeds),
                      claims=(more, faster))  # fmt: skip
    values = {("small", "x", ""): [17.0e6], ("large", "x", ""): [17.1e6],
              ("small", "v", ""): [105.0], ("large", "v", ""): [100.0]}  # fmt: skip
    size, speed = judge_claims(item, fill_frame(item, values), "paper")
    assert (size.verdict, speed.verdict) == ("holds", "undecided")
    assert size.interval == pytest.approx((1e5, 1e5))
    assert "; difference 0.10M [0.10M, 0.10M]. " in claims.line(size, "paper")
    clear = fill_frame(item, values | {("small", "v", ""): [150.0]})
    assert judge_claims(item, clear, "paper")[1].verdict == "holds"


def test_an_infinite_end_is_written() -> None:
    (one,) = judge_all(order("middle", "low", min_effect=MinEffect(1.1, "ratio", "why")))
    assert "[1.00, ∞]" in claims.line(replace(one, interval=(1.0, math.inf)), "paper")
