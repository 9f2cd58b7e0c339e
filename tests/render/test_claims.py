"""Claims as a table tells them: the verdict, the sentence, its place and the numbers behind it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from repro.render import claims, tables
from repro.render.latex import latex
from repro.spec import Claim, Experiment, Scale, SpecError
from tests.render.sample import cell, filled

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


def said(*told: Claim, scale: Scale = "paper") -> list[str]:
    experiment = replace(EXPERIMENT, claims=told)
    return claims.told(experiment, filled(experiment, VALUES, scale), scale)


def order(above: str, below: str, margin: float = 0.0, column: str = "x") -> Claim:
    return Claim("a sentence", "Section 1", ((above, column),), ((below, column),), margin)


def test_the_three_verdicts() -> None:
    holds, contradicted, undecided = said(
        order("middle", "low"), order("low", "high"), order("high", "middle")
    )
    assert holds == (
        "Holds: “a sentence” (Section 1). "
        "middle: 70.00, 71.00, 72.00 against low: 60.00, 60.50, 61.00 (x)."
    )
    assert contradicted.startswith("Contradicted: “a sentence” (Section 1). low: 60.00, ")
    assert undecided.startswith("Undecided: ")


@pytest.mark.parametrize(
    ("margin", "word", "told"),
    [
        (8.9, "Holds", ", by more than 8.90 (x)"),
        (9.0, "Undecided", ", by more than 9.00 (x)"),  # 70 - 9 ties with 61
        (12.5, "Contradicted", ", by more than 12.50 (x)"),
    ],
)
def test_the_margin_has_to_lie_between(margin: float, word: str, told: str) -> None:
    (line,) = said(order("middle", "low", margin))
    assert line.startswith(word)
    assert told in line


def test_a_negative_margin_may_be_missing() -> None:
    (line,) = said(order("middle", "high", -12.0))
    assert line.startswith("Holds")
    assert ", less 12.00 (x)." in line


def test_of_many_pairs_the_one_that_decides_is_told() -> None:
    claim = Claim("s", "p", (("high", "x"), ("middle", "x")), (("low", "x"), ("middle", "y")))
    (line,) = said(claim)
    assert line == (
        "Holds: “s” (p). middle, x: 70.00, 71.00, 72.00 against middle, y: 69.00, 69.50, 69.90. "
        "Of 4 pairs, this decides."
    )
    (line,) = said(replace(claim, below=(("low", "x"), ("high", "y"))))
    assert line.startswith("Undecided")
    assert "against high, y: not run" in line
    (line,) = said(replace(claim, below=(("high", "y"), ("high", "x")), above=(("low", "x"),)))
    assert line.startswith("Contradicted")
    assert "against high, x: 71.50" in line


def test_what_is_not_run_decides_nothing() -> None:
    (line,) = said(Claim("s", "p", (("high", "y"),), (("high", "y"),)))
    assert line == "Undecided: “s” (p). Not run."


def test_a_diverged_run_ranks_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VALUES, ("low", "x", ""), [99.0, None, None])
    (line,) = said(order("middle", "low"))
    assert line.startswith("Undecided")
    assert "low: 99.00, diverged, diverged (x)" in line
    monkeypatch.setitem(VALUES, ("low", "x", ""), [None, None, None])
    assert said(order("middle", "low"))[0].startswith("Holds")
    assert said(order("low", "middle"))[0].startswith("Contradicted")


def test_a_difference_of_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    """high loses less from x to y than low does: about 1 against 50, seed by seed."""
    monkeypatch.setitem(VALUES, ("high", "y", ""), [70.5, 78.0, 82.0])
    claim = Claim("s", "p", (("high", "y"), ("low", "x")), (("low", "y"), ("high", "x")),
                  kind="difference")  # fmt: skip
    (line,) = said(claim)
    assert line == (
        "Holds: “s” (p). high, y less high, x: -1.00, -2.00, 1.00 "
        "against low, y less low, x: -50.00, -49.50, -49.00."
    )
    flipped = replace(claim, above=claim.below, below=claim.above)
    assert said(flipped)[0].startswith("Contradicted")
    monkeypatch.setitem(VALUES, ("low", "y", ""), [None, None, None])
    assert "low, y less low, x: diverged, diverged, diverged" in said(claim)[0]
    monkeypatch.setitem(VALUES, ("low", "x", ""), [60.0, None, None])  # what is lost is not known
    assert "low, y less low, x: diverged." in said(claim)[0]


def test_scales() -> None:
    experiment = replace(EXPERIMENT, claims=(order("middle", "low"),))
    words: dict[Scale, str] = {"paper": "- Holds: “", "proxy": "- Holds at proxy scale: “"}
    for scale, told in words.items():
        markdown = tables.markdown(experiment, filled(experiment, VALUES, scale), scale)
        assert told in markdown
        assert "exact one-sided Mann-Whitney test" in markdown
    assert "laim" not in tables.markdown(
        replace(experiment, title=""), filled(experiment, VALUES, "smoke"), "smoke"
    )


def test_latex_has_no_curly_quotes() -> None:
    experiment = replace(EXPERIMENT, claims=(order("middle", "low"),))
    source = latex(experiment, filled(experiment, VALUES), "paper")
    assert r"\item Holds: ``a sentence'' (Section 1)." in source
    assert source.isascii()


def test_a_claim_about_no_cell_is_refused() -> None:
    with pytest.raises(SpecError, match=r"claims: a claim is about \('nowhere', 'x', ''\), which"):
        said(order("nowhere", "low"))


def test_a_claim_about_cells_of_paper_scale_is_not_told_in_small() -> None:
    released = cell("weights", "x", epochs=0)
    experiment = replace(
        EXPERIMENT, cells=(*EXPERIMENT.cells, released), claims=(order("weights", "low"),)
    )
    assert claims.told(experiment, filled(experiment, VALUES, "proxy"), "proxy") == []
    assert len(claims.told(experiment, filled(experiment, VALUES), "paper")) == 1


def test_where_less_is_better_a_diverged_run_is_the_largest() -> None:
    """FID: the sentence says whose is larger, and a run that diverged has the largest of all."""
    fid = Experiment(
        name="claims",
        place="Table 9",
        title="Claims",
        caption="A caption.",
        cells=tuple(cell(row, "x", metric="fid") for row in ("ours", "theirs")),
        claims=(Claim("ours is best", "here", (("theirs", "x"),), (("ours", "x"),)),),
    )
    values: dict[tuple[str, str, str], list[float | None]] = {
        ("ours", "x", ""): [20.0, 21.0, 22.0],
        ("theirs", "x", ""): [30.0, 31.0, None],
    }
    (line,) = claims.told(fid, filled(fid, values), "paper")
    assert line == (
        "Holds: “ours is best” (here). theirs: 30.00, 31.00, diverged against "
        "ours: 20.00, 21.00, 22.00 (x)."
    )
    table = tables.markdown(fid, filled(fid, values), "paper")
    assert "**21.00 ± 1.00**" in table
    assert "Least, which is best, in bold" in table
