"""Table 1 as it is drawn: every number recounted, holes and divergence shown, the same bytes."""

from __future__ import annotations

import io
import math
import os
import random
import re
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from repro import experiments, results
from repro.core.cells import HOLE, LOST
from repro.experiments.scales import at_scale
from repro.render import tables
from repro.render.frame import tidy
from repro.render.latex import latex as as_latex
from repro.render.tex_escape import tex
from repro.spec import Cell, Scale, with_seeds
from tests.finished import finish
from tests.render import sample

TABLE1 = experiments.get("table1")
SEEDS = 3
MADE_UP: dict[tuple[str, str], list[float | None]] = {  # None: this seed diverged
    ("Pyramid-164-48", "C10"): [95.97],
    ("WRN28-10", "C10"): [95.0, 96.0, 97.0],
    ("DeiT-T", "C10"): [88.1, 88.9],
    ("DeiT-S", "C10"): [97.5, None, 97.25],
    ("PVT-B", "C10"): [None, None, None],
    ("PVT-B", "C100"): [None],
    ("CCT-7/3×1", "C10"): [95.0, 96.0, 97.0],
    ("NesT-T", "C100"): [10.0, 20.0, 40.0],
    ("NesT-B", "C100"): [78.691, 78.688],  # the difference rounds to a zero from below
}


def cell_of(method: str, column: str) -> Cell:
    (cell,) = (c for c in TABLE1.cells if (c.row, c.column) == (method, column))
    return cell


def save_results(
    root: Path, scale: Scale, values: dict[tuple[str, str], list[float | None]]
) -> None:
    """A results folder with made-up results of Table 1."""
    for (method, column), seeds in values.items():
        run = at_scale(cell_of(method, column).run, scale)
        for seeded, top1 in zip(with_seeds(run, len(seeds)), seeds, strict=True):
            if top1 is None:
                diverged = {"status": "diverged", "metrics": {"step": 10}}
                results.finish(results.begin(root, seeded), diverged)
            else:
                finish(root, seeded, {"top1": top1})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up results at every scale, in one folder; those of the small scales are shifted."""
    folder = tmp_path_factory.mktemp("results")
    save_results(folder, "paper", MADE_UP)
    for scale, shift in (("demo", 5.0), ("smoke", 7.0)):
        shifted = {k: [None if v is None else v - shift for v in vs] for k, vs in MADE_UP.items()}
        save_results(folder, "demo" if scale == "demo" else "smoke", shifted)
    return folder


def render(root: Path, scale: Scale = "paper", seeds: int = SEEDS) -> tuple[pd.DataFrame, str, str]:
    """The frame, the Markdown and the LaTeX."""
    frame, warnings = tidy(TABLE1, scale, root, seeds)
    assert warnings == []
    return frame, tables.markdown(TABLE1, frame, scale), as_latex(TABLE1, frame, scale)


def grid(markdown: str) -> dict[str, dict[str, str]]:
    """The table of a Markdown text: method, without its mark -> column -> cell."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    header, _, *body = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    names, before = [], ""
    for name in header:  # the column after 'C10, here' is its difference
        names.append(f"{before}, Δ" if name == "Δ" else name)
        before = name.partition(",")[0]
    return {row[1].rstrip("‡"): dict(zip(names, row, strict=True)) for row in body}


def frame_row(frame: pd.DataFrame, method: str, column: str) -> pd.Series[float]:
    found = frame[(frame["row"] == method) & (frame["column"] == column)]
    assert len(found) == 1
    return found.iloc[0]


# --- the numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["paper", "demo", "smoke"])
def test_every_cell_is_recounted(root: Path, scale: Scale) -> None:
    frame, markdown, _ = render(root, scale)
    shift = {"paper": 0.0, "demo": 5.0, "smoke": 7.0}[scale]
    rows = grid(markdown)
    cells = [cell for cell in TABLE1.cells if scale in cell.scales]
    assert list(rows) == list(dict.fromkeys(cell.row for cell in cells))
    here = dict(zip(TABLE1.columns, (n for n in rows["NesT-T"] if "here" in n), strict=True))
    for cell in cells:
        made_up = MADE_UP.get((cell.row, cell.column), [])
        values = [v - shift for v in made_up if v is not None]
        row, text = frame_row(frame, cell.row, cell.column), rows[cell.row][here[cell.column]]
        assert row["n"] == len(values)
        assert row["diverged"] == len(made_up) - len(values)
        expected = "not run" if not made_up else f"{len(made_up)} diverged"
        if values:
            assert row["mean"] == pytest.approx(statistics.mean(values))
            expected = f"{statistics.mean(values):.2f}"
            if len(values) > 1:
                assert row["spread"] == pytest.approx(statistics.stdev(values))
                expected += f" ± {statistics.stdev(values):.2f}"
            expected += f" ({len(values)})"
            if len(values) < len(made_up):
                expected += f", {len(made_up) - len(values)} diverged"
        assert text.strip("*") == expected
        star = "*" if cell.row == "PVT-B" else ""
        printed = f"{cell.paper.value:.2f}{star}" if cell.paper else "–"
        assert rows[cell.row][f"{cell.column}, paper"] == printed


def test_best_of_a_column_is_bold_and_ties_are(tmp_path: Path) -> None:
    values: dict[tuple[str, str], list[float | None]] = {
        ("WRN28-10", "C10"): [90.0, 91.0, 92.0],
        ("DeiT-T", "C10"): [91.0],
        ("DeiT-S", "C10"): [91.004],  # prints as 91.00, too
        ("DeiT-B", "C10"): [90.99],
        ("NesT-T", "C10"): [None],
        ("NesT-S", "C100"): [3.0],  # alone, so that nothing is best
    }
    save_results(tmp_path, "paper", values)
    _, markdown, latex = render(tmp_path)
    bold = {
        (method, column)
        for method, row in grid(markdown).items()
        for column, text in row.items()
        if text.startswith("**")
    }
    assert bold == {
        ("WRN28-10", "C10, here"),
        ("DeiT-T", "C10, here"),
        ("DeiT-S", "C10, here"),
    }
    assert latex.count(r"\textbf{") == 3
    assert r"\textbf{91.00 $\pm$ 1.00 (3)}" in latex


@pytest.mark.parametrize("kind", ["top1", "fid"])
@pytest.mark.parametrize("worse", [math.inf, -math.inf])
def test_what_is_not_finite_is_never_best(kind: str, worse: float) -> None:
    cells = tuple(replace(sample.cell(row, "x"), metric=kind) for row in ("odd", "finite"))
    item = replace(TABLE1, cells=cells, claims=(), headings=("", "Method"))
    frame = sample.fill_frame(item, {("odd", "x", ""): [worse], ("finite", "x", ""): [50.0]})
    lines = tables.markdown(item, frame, "paper").splitlines()
    assert [line for line in lines if "**" in line] == [
        line for line in lines if line.startswith("| finite")
    ]
    assert "**" not in tables.markdown(item, frame, "smoke")  # whose numbers mean nothing


def test_nothing_is_bold_and_nothing_ranked_where_nothing_ran(tmp_path: Path) -> None:
    frame, markdown, latex = render(tmp_path)
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    tex_rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert " ".join(rows).count("not run") == " ".join(tex_rows).count("not run") == len(frame)
    assert "- Not run: NesT-T above Swin-T on C10. NesT-T: not run." in markdown
    assert "**" not in markdown
    assert "textbf" not in latex
    assert "Spearman" not in markdown
    assert frame["mean"].isna().all()


def test_all_diverged_is_not_a_number_and_not_a_hole(tmp_path: Path) -> None:
    save_results(tmp_path, "paper", {("PVT-B", "C10"): [None, None, None]})
    frame, markdown, _ = render(tmp_path)
    assert grid(markdown)["PVT-B"]["C10, here"] == "3 diverged"
    assert grid(markdown)["PVT-B"]["C10, Δ"] == ""
    assert frame["mean"].isna().all()


def test_the_star_of_the_paper_is_explained(root: Path) -> None:
    _, markdown, latex = render(root)
    assert markdown.count("85.05*") == markdown.count("43.78*") == 1
    assert TABLE1.starred
    assert f"* {TABLE1.starred}" in markdown
    assert f"{{*}} {tex(TABLE1.starred)}" in latex


def test_the_difference_is_ours_minus_the_paper_s(root: Path) -> None:
    frame, markdown, _ = render(root)
    rows = grid(markdown)
    for row in frame.to_dict("records"):
        shown = rows[str(row["row"])][f"{row['column']}, Δ"]
        if row["n"]:
            assert row["difference"] == pytest.approx(row["mean"] - row["paper"])
            assert shown == f"{row['mean'] - row['paper']:+z.2f}"
        else:
            assert pd.isna(row["difference"])
            assert shown == ""
    assert rows["WRN28-10"]["C10, Δ"] == "+0.17"
    assert rows["NesT-T"]["C100, Δ"] == "-55.36"


@pytest.mark.parametrize("scale", ["demo", "smoke"])
def test_small_scales_say_so_and_are_never_compared(root: Path, scale: Scale) -> None:
    frame, markdown, latex = render(root, scale)
    assert frame["difference"].isna().all()
    assert "Δ" not in markdown
    assert "Delta" not in latex
    for text in (markdown, latex):
        assert f"{scale.capitalize()} scale: " in text
    assert "Demo scale" not in render(root, "paper")[1]
    assert not re.search(r"C100?, here", markdown)  # the columns name the data


def table_with_provenance(root: Path, facts: dict[tuple[str, str], dict[str, str]]) -> str:
    """Table 1 from runs with this provenance."""
    for (method, column), provenance in facts.items():
        run = at_scale(cell_of(method, column).run, "paper")
        for seeded in with_seeds(run, 2):
            finish(root, seeded, {"top1": 50.0}, provenance=provenance)
    return render(root)[1]


def test_mixed_devices_and_precisions_are_noted(tmp_path: Path) -> None:
    bf16 = {"device": "NVIDIA <H100>", "precision": "bf16 autocast"}
    fp32 = {"device": "CPU x86_64 AVX2, 1 threads", "precision": "fp32"}
    alike = {
        ("DeiT-T", "C10"): fp32,
        ("DeiT-S", "C10"): fp32 | {"device": "CPU x86_64 AVX2, 2 threads"},
    }
    assert "Runs differ" not in table_with_provenance(
        tmp_path / "alike", {**alike, ("PVT-B", "C10"): {}}
    )
    table = table_with_provenance(tmp_path / "other", {**alike, ("NesT-T", "C10"): bf16})
    assert "\nRuns differ in device: 4 CPU x86_64 AVX2, 2 NVIDIA &lt;H100>.\n" in table
    assert "\nRuns differ in precision: 4 fp32, 2 bf16 autocast.\n" in table


def test_scales_do_not_mix(tmp_path: Path) -> None:
    """A table takes nothing from the results of another scale in the same folder."""
    save_results(tmp_path, "demo", MADE_UP)
    save_results(tmp_path, "smoke", MADE_UP)
    assert render(tmp_path, "paper")[0]["n"].sum() == 0
    save_results(tmp_path / "only", "paper", MADE_UP)
    assert render(tmp_path / "only", "demo")[0]["n"].sum() == 0
    assert render(tmp_path / "only", "smoke")[0]["n"].sum() == 0


def test_only_the_requested_seeds_count(root: Path) -> None:
    frame, _, _ = render(root, seeds=1)
    assert frame["n"].max() == 1
    assert frame_row(frame, "NesT-T", "C100")["mean"] == 10.0


def test_zero_has_no_sign(tmp_path: Path) -> None:
    printed = cell_of("NesT-T", "C10").paper
    assert printed
    save_results(
        tmp_path,
        "paper",
        {("NesT-T", "C10"): [printed.value - 1e-6], ("NesT-S", "C10"): [96.97 - 0.004]},
    )
    frame, markdown, latex = render(tmp_path)
    assert grid(markdown)["NesT-T"]["C10, Δ"] == "+0.00"
    assert grid(markdown)["NesT-S"]["C10, Δ"] == "+0.00"
    for text in (markdown, latex, tables.csv(frame)):
        assert not re.search(r"-0\.0*(?![0-9])", text)


def test_no_correlation_has_no_sign(tmp_path: Path) -> None:
    """An order of fifteen methods whose rho is 1 - 6 * 562 / (15 * 224) = -0.0036."""
    shuffle = random.Random(0)
    order = list(range(15))
    while sum((i - place) ** 2 for i, place in enumerate(order)) != 562:
        shuffle.shuffle(order)
    by_paper = sorted((c.paper.value, c.row) for c in TABLE1.cells if c.column == "C10" and c.paper)
    methods = [method for _, method in by_paper]
    save_results(
        tmp_path, "paper", {(m, "C10"): [80.0 + p] for m, p in zip(methods, order, strict=True)}
    )
    expected = "with the paper +0.00, 95 % interval -0.5"
    assert expected in render(tmp_path)[1]


def test_the_order_is_that_of_the_known_methods(tmp_path: Path) -> None:
    same = {(c.row, c.column): [c.paper.value / 2] for c in TABLE1.cells if c.paper}
    save_results(tmp_path, "paper", {k: list(v) for k, v in same.items()})
    markdown = render(tmp_path, "paper")[1]
    assert markdown.count("with the paper +1.00, 95 % interval ") == 2
    assert "Order of the 15 methods, C10: " in markdown
    save_results(tmp_path, "demo", {k: list(v) for k, v in same.items()})
    assert "Order of the" not in render(tmp_path, "demo")[1]


def test_open_values_are_marked_at_paper_scale(root: Path) -> None:
    """What is official for NesT is our choice for the others, though the values are equal."""
    frame, markdown, _ = render(root)
    open_of = {str(r["row"]): str(r["choices"]).split() for r in frame.to_dict("records")}
    assert open_of["NesT-T"] == ["batch_size"]
    assert {"batch_size", "epochs", "lr", "weight_decay", "drop_path"} <= set(open_of["Swin-T"])
    assert "NesT-T‡" in markdown
    assert "‡ Our choices for values that the paper does not state: batch_size, " in markdown
    assert "‡" not in render(root, "demo")[1]


def test_a_result_that_cannot_be_used_is_warned_of_and_left_out(tmp_path: Path) -> None:
    save_results(tmp_path, "paper", {("NesT-T", "C10"): [90.0, 92.0]})
    damaged = results.folder(tmp_path, cell_of("NesT-T", "C10").run) / results.RESULT
    damaged.write_text('{"status": "do')
    frame, warnings = tidy(TABLE1, "paper", tmp_path, SEEDS)
    assert len(warnings) == 1
    assert str(damaged) in warnings[0]
    assert frame_row(frame, "NesT-T", "C10")["mean"] == 92.0
    assert damaged.read_text() == '{"status": "do'


def test_a_number_that_the_paper_does_not_print(tmp_path: Path) -> None:
    """Said where the paper has such numbers; where it has none of a column, there is no column."""
    cell, other = replace(cell_of("NesT-T", "C10"), paper=None), cell_of("NesT-S", "C10")
    save_results(tmp_path, "paper", {("NesT-T", "C10"): [90.0]})
    experiment = replace(TABLE1, cells=(cell, other), claims=(), has_gaps=True)
    frame, _ = tidy(experiment, "paper", tmp_path, SEEDS)
    row = grid(tables.markdown(experiment, frame, "paper"))["NesT-T"]
    assert row["C10, paper"] == "not in our copy of the paper"
    assert row["C10, Δ"] == ""
    experiment = replace(TABLE1, cells=(cell,), claims=())
    frame, _ = tidy(experiment, "paper", tmp_path, SEEDS)
    markdown = tables.markdown(experiment, frame, "paper")
    assert list(grid(markdown)["NesT-T"]) == ["Arch. base", "Method", "C10, here"]
    assert "our copy" not in markdown


# --- the files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["paper", "demo", "smoke"])
def test_csv_comes_back(root: Path, scale: Scale) -> None:
    """One row for each seed, from which the frame's numbers follow."""
    frame = render(root, scale)[0]
    back = pd.read_csv(io.StringIO(tables.csv(frame)), keep_default_na=False)
    cells = [cell for cell in TABLE1.cells if scale in cell.scales]
    assert len(back) == sum(max(1, len(cell["runs"])) for cell in frame.to_dict("records"))
    assert not back.duplicated(["row", "dataset", "seed"]).any()
    assert not back.duplicated("run").any()
    of_cells = back.drop_duplicates(["row", "dataset"])
    assert list(of_cells["row"]) == [cell.row for cell in cells]
    assert [float(value) for value in of_cells["paper"] if value] == [
        cell.paper.value for cell in cells if cell.paper
    ]
    assert set(back["status"]) <= {"done", HOLE, *LOST}
    done = back[back["status"] == "done"]
    assert (done["sha256"].str.len() == 64).all()
    means = done.assign(value=done["value"].astype(float)).groupby(["row", "dataset"]).value.mean()
    known = frame[frame["n"] > 0].set_index(["row", "dataset"])["mean"].astype(float)
    assert means.to_dict() == pytest.approx(known.to_dict(), abs=5e-5)


@pytest.mark.parametrize("scale", ["paper", "demo", "smoke"])
def test_markdown_is_padded_and_one_line_ends_it(root: Path, scale: Scale) -> None:
    frame, markdown, _ = render(root, scale)
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(lines) == frame["row"].nunique() + 2
    assert len({len(line) for line in lines}) == 1
    assert markdown.endswith("\n")
    assert not markdown.endswith("\n\n")
    assert all(line == line.rstrip() for line in markdown.splitlines())


DRAW = """
import sys
from pathlib import Path
from repro.cli import main
for scale in ("paper", "demo", "smoke"):
    main(["table1", "--scale", scale, "--results", sys.argv[1], "--out", sys.argv[2]])
"""


def test_the_same_bytes_anywhere(root: Path, tmp_path: Path) -> None:
    """Another process, hash seed, locale, time zone and folder; and drawn over itself."""
    settings = [
        {"PYTHONHASHSEED": "1", "LC_ALL": "C", "TZ": "UTC"},
        {"PYTHONHASHSEED": "2", "LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo"},
    ]
    found = []
    for number, setting in enumerate(settings):
        out, here = tmp_path / f"out{number}", tmp_path / f"cwd{number}"
        here.mkdir()
        for _ in range(2 - number):
            subprocess.run(
                [sys.executable, "-c", DRAW, str(root), str(out)],
                cwd=here,
                env={**os.environ, **setting},
                check=True,
                capture_output=True,
            )
        files = sorted(path for path in out.rglob("*") if path.is_file())
        found.append({str(path.relative_to(out)): path.read_bytes() for path in files})
        assert list(here.iterdir()) == []
    assert found[0] == found[1]
    names = [f"tables/{s}table1.{e}" for s in ("", "demo/", "smoke/") for e in ("csv", "md", "tex")]
    assert sorted(found[0]) == sorted(names)
    frame, markdown, latex = render(root)
    assert found[0]["tables/table1.md"] == markdown.encode()
    assert found[0]["tables/table1.tex"] == latex.encode()
    assert found[0]["tables/table1.csv"] == tables.csv(frame).encode()
