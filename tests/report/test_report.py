"""`repro report`: one page that needs nothing else, in which every number has its evidence."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from repro import paper
from repro.core import output
from repro.core.claims import VERDICTS
from repro.report import page
from repro.report.content import (
    Block,
    CellEvidence,
    ClaimTest,
    CurveGroup,
    LedgerEntry,
    LedgerSection,
    Missing,
    OutdatedGroup,
    PlacedBlock,
    Plot,
    Report,
    RowGroup,
    RunEvidence,
    ScaleCounts,
    Section,
    SeedValue,
    Table,
    TableCell,
    TableRow,
    TrainingCurve,
)
from repro.report.guarantees import GUARANTEES, Guarantee
from repro.spec import Decision
from tests.command_line import Capture, error_of, run_command
from tests.report.conftest import ROOT, report_of
from tests.report.parsed import Element, Page, parse, plain

MOST_BYTES = 5_000_000
HOSTILE = "</script><script>alert(1)</script>\"'&lt;<!--\u2028\u2029\x00\x1b[2J\ud800<img src=x>"


@pytest.fixture(scope="module")
def parsed(whole_page: str) -> Page:
    return parse(whole_page)


# --- self-contained ------------------------------------------------------------------------------


def test_it_needs_nothing_from_elsewhere(parsed: Page, whole_page: str) -> None:
    assert len(whole_page.encode()) <= MOST_BYTES
    addresses = [
        element.attributes[name]
        for element in parsed.elements
        for name in ("src", "href", "srcset", "data", "action", "poster")
        if name in element.attributes
    ]
    assert addresses
    assert [each for each in addresses if not each.startswith(("#", "data:"))] == []
    (style,) = parsed.named("style")
    assert not re.search(r"url\(|@import", style.text)
    assert {each.name for each in parsed.elements} & {"iframe", "object", "embed", "base"} == set()


def test_the_policy_admits_its_own_style_and_script_alone(parsed: Page) -> None:
    (style,) = parsed.named("style")
    (script,) = [each for each in parsed.named("script") if not each.attributes]
    hashes = [
        base64.b64encode(hashlib.sha256(each.text.encode()).digest()).decode()
        for each in (style, script)
    ]
    assert parsed.policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; "
        f"script-src 'sha256-{hashes[1]}'; base-uri 'none'; form-action 'none'"
    )
    names = {name for element in parsed.elements for name in element.attributes}
    assert "style" not in names
    assert [name for name in names if name.startswith("on")] == []
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in script.text


def test_links_lead_somewhere_and_ids_are_unique(parsed: Page) -> None:
    ids = [each.attributes["id"] for each in parsed.elements if "id" in each.attributes]
    assert len(ids) == len(set(ids))
    targets = [each.attributes.get("href", "") for each in parsed.named("a")]
    assert {target[1:] for target in targets} <= set(ids)
    labels = [e.attributes["aria-labelledby"] for e in parsed.elements
              if "aria-labelledby" in e.attributes]  # fmt: skip
    assert set(labels) <= set(ids)


def test_the_same_results_make_the_same_bytes() -> None:
    alone, together = (report_of("table_a6", workers=count) for count in (1, 2))
    assert page.html(alone) == page.html(together)
    assert page.folder(alone) == page.folder(together)


# --- content -------------------------------------------------------------------------------------


def test_every_number_has_its_evidence(whole: Report, parsed: Page) -> None:
    """Each cell of ours is a button; its evidence has the same text and the runs of the CSV."""
    evidence = parsed.evidence
    cells = evidence["cells"]
    in_tables = [each for each in parsed.buttons() if each.text == cells[_index(each)][3]]
    assert sorted(map(_index, in_tables)) == list(range(len(cells)))
    for placed in whole.blocks:
        block = placed.block
        rows = [row for row in csv.DictReader(io.StringIO(block.csv)) if row["sha256"]]
        for i, cell in enumerate(block.cells, placed.first_cell):
            own = [row for row in rows if _place(block, row) == cell.place]
            runs = [evidence["runs"][seed[0]] for seed in cells[i][6]]
            digests = {run[0]: run[6] for run in runs if len(run) > 4}
            assert {row["run"]: row["sha256"] for row in own} == digests, cell.place


def _place(block: Block, row: dict[str, str]) -> tuple[str, ...]:
    return block.item, *filter(None, (row["row"], row["panel"], row["column"]))


def _index(button: Element) -> int:
    return int(button.attributes["data-cell"])


def test_every_item_and_scale_with_a_result_is_shown(whole: Report, parsed: Page) -> None:
    ids = {each.attributes.get("id") for each in parsed.elements}
    assert set(paper.current().names()) <= ids
    for table in (ROOT / "tables").rglob("*.csv"):
        scale = table.parent.name if table.parent.name != "tables" else "paper"
        with table.open() as file:
            if any(row["sha256"] for row in csv.DictReader(file)):
                assert f"{table.stem}-{scale}" in ids
    figures = [placed for placed in whole.blocks if placed.block.figure]
    assert len(parsed.named("img")) == len(figures) > 0


def test_the_numbers_of_the_paper_are_beside_ours(parsed: Page) -> None:
    shown = [
        plain(each.text) for each in parsed.named("td") if each.attributes.get("class") == "paper"
    ]
    printed = [cell for name in paper.current().names() for cell in paper.current().get(name).cells
               if cell.paper]  # fmt: skip
    assert len(shown) >= len({(cell.row, cell.column) for cell in printed}) > 0


def test_every_verdict_is_listed(whole: Report, parsed: Page, capsys: Capture) -> None:
    tests = [each for each in parsed.named("li") if "data-verdict" in each.attributes]
    for scale in ("paper", "proxy"):
        status, out, _ = run_command(
            capsys, f"claims --scale {scale} --json --results {ROOT}/results"
        )
        assert status == 0
        shown = {
            section.item
            for section in whole.sections
            if any(placed.block.scale == scale for placed in section.blocks)
        }
        expected = sorted(row["verdict"] for row in json.loads(out) if row["item"] in shown)
        counts = next(each for each in whole.counts if each.scale == scale)
        assert sorted(v for v, n in counts.verdicts.items() for _ in range(n)) == expected
    verdicts = [each.attributes["data-verdict"] for each in tests]
    assert set(verdicts) <= set(VERDICTS)
    assert len(verdicts) == sum(sum(each.verdicts.values()) for each in whole.counts)


def test_what_is_not_run_has_a_price(whole: Report, parsed: Page) -> None:
    at_paper = [each for each in whole.missing if each.scale == "paper"]
    assert at_paper
    assert all("GPU-hours" in each.price or "unknown" in each.price for each in at_paper)
    (text,) = [
        each.text for each in parsed.named("section") if each.attributes.get("id") == "missing"
    ]
    assert all(each.price in text for each in at_paper)


def test_curves_decisions_and_outdated_results_are_there(whole: Report, parsed: Page) -> None:
    plots = [plot for group in whole.curves for curve in group.curves for plot in curve.plots]
    assert len(parsed.named("polyline")) == sum(bool(plot.line) for plot in plots) > 0
    listed = [run for group in whole.outdated for run in group.runs]
    assert len(listed) == len(set(listed))
    assert set(listed) <= set(whole.runs)
    text = plain(" ".join(each.text for each in parsed.named("dd")))
    for section in whole.ledger:
        for decision in section.decisions:
            assert plain(decision.chosen.replace("`", "")) in text


@pytest.mark.parametrize("guarantee", GUARANTEES, ids=lambda each: each.promise)
def test_what_is_guaranteed_is_tested(guarantee: Guarantee) -> None:
    for name in guarantee.tests:
        assert re.search(r"^def test_", (ROOT / name).read_text(), re.M), name


# --- hostile results -----------------------------------------------------------------------------


def report_with(text: str) -> Report:
    """A report in which every text is this one."""
    cell = CellEvidence((text, text), text, text, text, text, (SeedValue(text, text, text),),
                        ((text, text, text, True),), (0,), text)  # fmt: skip
    run = RunEvidence(0, text, text, text, ((text, text),), text, text, text)
    rows = (TableRow(text, (TableCell(text, "here", 0), TableCell(text, "paper"))),)
    table = Table((text, text), (text, text), (RowGroup(text, rows),))
    block = Block("item", "proxy", text, table, ((text, (text,)), (text, (text,))), text, text,
                  (cell,), 1, {text: run}, (ClaimTest(text, text, text, text, text, (0,)),),
                  {text: (text,)}, (text,))  # fmt: skip
    missing = Missing("item", text, "proxy", text, 1, text)
    plot = Plot(text, text, text, "0,0 1,1", "0,0 1,1", ("1", "1"))
    return Report(
        paper=text, title=text, digest=text, num_results=1,
        sections=(Section("item", text, text, (PlacedBlock(block, 0, 0, missing),)),),
        counts=(ScaleCounts("proxy", 1, 1, {"holds": 1}),),
        curves=(CurveGroup("item", text, (TrainingCurve(text, (text,), text, (plot,)),), text),),
        ledger_title=text, common_decisions=(Decision(text, text, text, text),),
        ledger=(LedgerSection("item", text, (Decision(text, text, text, text),),
                              (LedgerEntry(((text, text),), text, text, True),)),),
        missing=(missing,), devices={"proxy": text},
        outdated=(OutdatedGroup(text, (text,), text, text, (text,)),), prices={text: text},
        runs={text: run}, warnings=(text,),
    )  # fmt: skip


HARMLESS = parse(page.html(report_with("x")))


@given(st.text(alphabet=st.characters(), min_size=1, max_size=40))
@example(HOSTILE)
@example("`</code><script>`")
@example("__proto__")
@settings(max_examples=60)
def test_any_text_stays_a_text(text: str) -> None:
    """It adds no element and no attribute, and is shown whole, with control characters escaped."""
    found = parse(page.html(report_with(text)))
    kinds = [(each.name, sorted(each.attributes)) for each in found.elements]
    ours = [(each.name, sorted(each.attributes)) for each in HARMLESS.elements]
    assert [kind for kind in kinds if kind[0] != "code"] == [k for k in ours if k[0] != "code"]
    shown = output.terminal(text)
    assert found.evidence["cells"][0][0] == [shown, shown]
    cells = [each.text for each in found.named("td") if each.attributes.get("class") == "paper"]
    assert cells == [shown]
    assert found.policy.startswith("default-src 'none'; img-src data:; ")


def test_text_of_results_stays_a_text(tmp_path: Path) -> None:
    """A device, a waiver and a site with markup: from the files to the page."""
    root = tmp_path / "results"
    names = [path.name for path in (ROOT / "results").glob("*-counted-*")]
    for name in names:
        shutil.copytree(ROOT / "results" / name, root / name)
        result = json.loads((root / name / "result.json").read_text())
        result["provenance"] |= {
            "device": "<script>alert(1)</script>\u2028",
            HOSTILE[:40]: [HOSTILE[:20]],
        }
        (root / name / "result.json").write_text(json.dumps(result))
    html = page.html(report_of("table_a6", root=root, workers=1))
    assert "<script>alert" not in html
    assert "\u2028" not in html
    about = {text for text in parse(html).evidence["texts"] if "alert" in text}
    assert r"<script>alert(1)</script>\u2028" in about


def test_a_damaged_result_is_a_warning(tmp_path: Path) -> None:
    root = tmp_path / "results"
    names = sorted(path.name for path in (ROOT / "results").glob("*-counted-*"))
    for name in names:
        shutil.copytree(ROOT / "results" / name, root / name)
        (root / name / "result.json").write_text("{")
    report = report_of("table_a6", root=root, workers=1)
    assert report.warnings
    assert all("damaged" in line for line in report.warnings)
    assert "damaged" in page.html(report)


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").symlink_to(ROOT / "results")
    return tmp_path


def test_the_command_writes_one_file(here: Path, capsys: Capture) -> None:
    status, out, err = run_command(capsys, "report table_a6 --scale paper")
    assert (status, out, err) == (0, "build/report.html\n", "")
    assert [path.name for path in (here / "build").iterdir()] == ["report.html"]
    page = parse((here / "build/report.html").read_text())
    assert [each.attributes["id"] for each in page.named("details")
            if each.attributes.get("class") == "block"] == ["table_a6-paper"]  # fmt: skip


def test_the_command_writes_a_folder(here: Path, capsys: Capture) -> None:
    """The same content, with figures and tables as files that its links name."""
    status, out, _ = run_command(capsys, "report figure7 --scale demo --folder site")
    assert (status, out) == (0, "site/index.html\n")
    page = parse((here / "site/index.html").read_text())
    names = [each.attributes["src"] for each in page.named("img")]
    names += [e.attributes["href"] for e in page.named("a") if e.attributes["href"][0] != "#"]
    assert sorted(names) == ["figures/demo/figure7.svg", "tables/demo/figure7.csv"]
    for name in names:
        assert (here / "site" / name).read_bytes() == (ROOT / name).read_bytes()
    assert "img-src 'self';" in page.policy


def test_what_it_refuses(here: Path, capsys: Capture) -> None:
    assert "--scale: paper, proxy" in error_of(capsys, "report --scale tiny")
    assert "is a folder" in error_of(capsys, "report table_a6 --out .")
    assert "nothing at proxy scale" in error_of(capsys, "report table2 --scale proxy")
    assert "did you mean table1?" in error_of(capsys, "report tabel1")
    error_of(capsys, "report --out a.html --folder b")
    assert list(here.iterdir()) == [here / "results"]


def test_another_paper_has_a_report(
    here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPRO_PAPER", str(ROOT / "tests/papers/tiny"))
    (here / "none").mkdir()
    status, out, _ = run_command(capsys, "report --results none --out tiny.html")
    assert (status, out) == (0, "tiny.html\n")
    found = parse((here / "tiny.html").read_text())
    assert [plain(each.text) for each in found.named("h1")] == ["Tiny"]
    assert len(found.buttons()) > 0


def test_evidence_is_shared_by_cells(whole: Report, whole_page: str) -> None:
    """Nothing is there once a cell that could be there once a run."""
    digests = [run.sha256 for run in whole.runs.values()]  # two runs may have equal results
    for digest in digests[::50]:
        assert whole_page.count(digest) == digests.count(digest)
