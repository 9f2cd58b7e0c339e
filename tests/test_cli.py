"""The command line: exit statuses, one-line errors, and files that stay intact."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from repro import cli, experiments, results
from repro.commands.registry import COMMANDS
from repro.commands.usage import hint
from repro.core import plan
from repro.core.scales import runs_at_scale
from repro.experiments.scales import at_scale
from repro.launch import lease
from repro.spec import SCALES, Run, Scale, with_seeds
from tests import finished
from tests.command_line import Capture, assert_one_line, error_of, run_command, stdout_of

ROOT = Path(__file__).parents[1]
TABLE1 = experiments.get("table1")
RUNS: dict[str, Run] = {cell.row: cell.run for cell in TABLE1.cells if cell.column == "C10"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every command runs in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def snapshot(root: Path) -> dict[str, bytes | None]:
    """Every folder and file, with the content of files."""
    return {str(p): None if p.is_dir() else p.read_bytes() for p in root.rglob("*")}


def finish(run: Run, **metrics: float) -> Path:
    """A made-up result in ./results; its path."""
    return finished.finish(Path("results"), run, metrics) / results.RESULT


# --- wrong usage ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tabel1", "unknown item 'tabel1'; did you mean table1?"),
        ("Tabel1", "unknown item 'Tabel1'; did you mean table1?"),
        ("stauts", "unknown item 'stauts'; did you mean status?"),
        ("figure99", "unknown item 'figure99'; "),
        ("table1 tabel1", "unknown item 'tabel1'; did you mean table1?"),
        ("plan tabel1", "did you mean table1?"),
        ("status tabel1", "did you mean table1?"),
        ("--launch local", "reproduce which item? Name one: table1"),
        ("--seeds 1 tabel1", "did you mean table1?"),
        ("plan", "plan which item? Name one: table1"),
        ("plan --json", "plan which item? Name one: table1"),
        ("plan table1 --only NesT/C11", "table1 has no column 'C11' of NesT; did you mean C10?"),
        ("plan table1 --only nset-t", "table1 has no method 'nset-t'; did you mean NesT-T?"),
        (
            "plan table1 --only VGG",
            "table1 has no method 'VGG'; there are Pyramid-164-48, WRN28-10, ",
        ),
        ("--only NesT-T plan table1 --only Swim-B", "no method 'Swim-B'; did you mean Swin-B?"),
        ("table1 --seds 1", "--seds 1; did you mean --seeds? (repro table1 --help)"),
        ("table1 --lauch local", "did you mean --launch?"),
        ("list --jsn", "--jsn; did you mean --json? (repro list --help)"),
        ("table1 --scale papr", "--scale: invalid choice: 'papr' (choose from 'paper', 'proxy', "),
        ("table1 --launch cloud", "--launch: invalid choice: 'cloud' (choose from 'none', 'local'"),
        ("table1 --seeds 0", "seeds"),
        ("table1 --seeds -1", "seeds"),
        ("plan table1 --seeds two", "seeds"),
        ("status --seeds 0", "seeds"),
        ("table1 --launch local --jobs 0", "jobs"),
        ("table1 --launch local --micro-batch 0", "micro-batch"),
        ("table1 --seeds 101", "--seeds: a whole number from 1 to 100, not '101'"),
        ("status --seeds 99999999999999999999", "--seeds: a whole number from 1 to 100"),
        ("table1 --launch local --ranks 999999999", "--ranks: a whole number from 1 to 1,024"),
        ("testbed --nodes 100000 -- true", "--nodes: a whole number from 1 to 64"),
        # Options without effect.
        ("table1 --jobs 2", "--jobs is for --launch local"),
        ("table1 --launch slurm --ranks 2", "--ranks is for --launch local"),
        ("table1 --launch local --per-gpu 2", "there is no GPU here; --jobs N"),
        ("table1 --launch local --per-gpu 2 --jobs 3", "--per-gpu and --jobs exclude each other"),
        ("table1 --launch local --per-gpu 2 --ranks 2", "--per-gpu and --ranks exclude each other"),
        ("table2 --scale proxy", "table2: nothing at proxy scale; try --scale paper or demo or"),
        ("figure5_right --scale demo --launch local --speed plain", "--speed would do nothing"),
        ("figure5_left --launch local --speed compiled", "no run here is the training of a class"),
        ("table_a1 --launch local --micro-batch 4", "--micro-batch would do nothing"),
        ("table_a1 --launch slurm --checkpoint-seconds 0", "--checkpoint-seconds would do"),
        ("table1 --launch local --decode nvjpeg", "no run here is a training on photographs"),
        ("table2 --images 256px --launch local --decode nvjpeg", "--decode would do nothing"),
        ("table1 --launch local --weights .", "no run here is of released weights"),
        ("table1 --wait", "--wait is for --launch slurm"),
        ("table1 --launch local --cluster site.yaml", "--cluster is for --launch slurm"),
        ("table1 --launch local --yes", "--yes is for --launch slurm"),
        ("table1 --budget 5", "--budget is for --launch local or slurm"),
        ("table1 --only NesT", "--only is for --launch local or slurm"),
        ("table1 --data elsewhere", "--data is for --launch local or slurm"),
        ("table1 --checkpoint-seconds 0", "--checkpoint-seconds is for --launch local or slurm"),
        ("table1 --launch slurm --yes --budget 5", "not allowed with argument"),
        ("table1 --images 256px", "--images 256px is for ImageNet, of which table1 reads nothing"),
        ("plan table1 --runs --json", "not allowed with argument"),
        ("status --data elsewhere", "unrecognized arguments: --data"),
        ("plan table1 --wait", "--wait; --wait is for --launch slurm (repro plan --help)"),
        ("status --launch slurm", "--launch is for `repro ITEM` and `repro retry`"),
        ("doctor --jobs 3", "--jobs 3; --jobs is for --launch local"),
        ("explain photo.jpg --run x --top 2 --classes 3", "not allowed with argument --top"),
        ("explain photo.jpg --run timm:x --data here", "--data is for a run of yours"),
        ("plan table1 --sed=1", "did you mean --seeds?"),
        ("explain photo.jpg", "arguments are required: --run RUN (repro explain --help)"),
        ("explain", "arguments are required: IMAGE, --run RUN (repro explain --help)"),
        ("sample", "arguments are required: RUN (repro sample --help)"),
        ("logs", "arguments are required: RUN (repro logs --help)"),
        ("prepare cifar10 --results elsewhere", "unrecognized arguments: --results"),
        ("doctor --cluster site.yaml --data elsewhere", "--data is for checking this machine"),
        ("retry table1 --launch none", "invalid choice: 'none'"),
        ("retry table1 --out elsewhere", "unrecognized arguments: --out"),
        ("why", "`repro why --decisions [ITEM...]`"),
        ("table1 --scal demo", "did you mean --scale?"),
        ("table1 --results.x elsewhere", "unrecognized arguments: --results.x"),
        *(
            (
                f"table1 --launch local --checkpoint-seconds={value}",
                f"--checkpoint-seconds: a number from 0 to 604,800, not '{value}'",
            )
            for value in ("soon", "-1", "nan", "inf", "-inf", "1e300", "604801", "9" * 400, "")
        ),
        ("table1 --only", "--only"),
        ("list tabel1", "unknown item 'tabel1'; did you mean table1?"),
        ("prepare", "arguments are required: DATASET (repro prepare --help)"),
        ("prepare cifra10", "unknown dataset cifra10: did you mean cifar10?"),
        ("prepare imagenette", "unknown dataset imagenette: did you mean imagenet"),
    ],
)
def test_wrong_usage(capsys: Capture, here: Path, line: str, message: str) -> None:
    """One line with the cause, exit status 2, and nothing is written."""
    error = error_of(capsys, line)
    assert message in error
    assert error.count("did you mean") <= 1
    assert "<" not in error  # no Python object shows through
    assert list(here.iterdir()) == []


def test_hint_searches_all_names_and_lists_few() -> None:
    known = [f"run-{number}" for number in range(100)]
    assert hint("rnu-97", known) == "did you mean run-97?"
    listed = hint("?", known)
    assert listed.startswith("there are run-0, run-1, ")
    assert listed.endswith(", ...")
    assert len(listed) < 320


def test_valid_options_are_not_suggested(capsys: Capture) -> None:
    for line in ("table1 --scale papr", "table1 --seeds 0", "table1 --only"):
        assert "did you mean" not in error_of(capsys, line)


@pytest.mark.parametrize(
    "line", ["--help", "-h", "help", "", "table1 --help", "plan --help", "plan table1 -h"]
    + [f"{verb} --help" for verb in COMMANDS],
)  # fmt: skip
def test_help(capsys: Capture, here: Path, line: str) -> None:
    out = stdout_of(capsys, line)
    assert out.strip()
    assert "<function" not in out
    assert "<class" not in out
    assert "null" not in out
    defaults = re.findall(r"[(; ]default:", out)
    assert len(defaults) == out.count("default:") <= len(re.findall(r"^  -", out, re.MULTILINE))
    assert list(here.iterdir()) == []


def test_every_command_and_status_is_in_the_help(capsys: Capture) -> None:
    out = stdout_of(capsys, "--help")
    for command in COMMANDS:
        assert re.search(rf"^  {command} +\w", out, re.MULTILINE)
    assert "table1" in out
    for number, meaning in cli.STATUSES.items():
        assert re.search(rf"^  {number} +{meaning}", out, re.MULTILINE)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from repro.cli import main; main(['--help']); main(['--version'])\n"
        "heavy = {'torch', 'timm', 'pandas', 'numpy', 'jsonargparse'} & sys.modules.keys()\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# --- list, plan and status -----------------------------------------------------------------------


def test_list(capsys: Capture) -> None:
    found = {item["name"]: item for item in json.loads(stdout_of(capsys, "list --json"))}
    assert list(found)[:3] == ["table1", "table2", "table3"]
    table1 = found["table1"]
    assert (table1["name"], table1["place"], len(table1["rows"])) == ("table1", "Table 1", 16)
    lines = stdout_of(capsys, "list").splitlines()
    assert lines[0].split() == ["item", "rows", "in", "the", "paper"]
    assert len(lines) == 1 + len(found)
    assert re.match(r"table1 +16  Table 1\. ", lines[1])
    heading, *rows = stdout_of(capsys, "list table_a1").splitlines()
    assert heading.startswith("table_a1  Table A1. ")
    assert rows == [f"  {row}" for row in found["table_a1"]["rows"]]
    (chosen,) = json.loads(stdout_of(capsys, "list table1 --json"))
    assert chosen == table1


def plan_rows(capsys: Capture, options: str) -> list[dict[str, Any]]:
    found = json.loads(stdout_of(capsys, f"plan table1 --json {options}"))
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize(
    ("gpu", "is_known"), [("H100", True), ("a100_80gb", True), ("A4000", False)]
)
def test_a_gpu_of_unknown_speed_is_named(
    capsys: Capture, here: Path, gpu: str, is_known: bool
) -> None:
    assert cli.main(["plan", "table1", "--gpu", gpu]) == 0
    message = f"gpu: the speed of {gpu} is not known; known are V100, A100,"
    assert (message not in capsys.readouterr().out) == is_known


def test_plan(capsys: Capture, here: Path) -> None:
    lines = stdout_of(capsys, "plan table1").splitlines()
    heading, columns, *methods, counts, price, _disk, memory, peak, ten, hundred = lines
    assert heading == "table1"
    assert columns.split() == ["row", "missing", "price"]
    assert methods[0].split() == ["Pyramid-164-48", "6", "price", "unknown"]
    assert len(methods) == 16
    assert counts == "96 runs: 96 missing"
    assert price.startswith("price: 96 runs unpriced: ")
    assert memory.startswith("memory: 80 GB of one H100, ")
    assert peak.startswith("  all: at most ")
    assert "`repro prepare cifar10 --data data`" in ten
    assert "`repro prepare cifar100 --data data`" in hundred
    out = stdout_of(capsys, "plan table1 --runs --scale smoke")
    assert len(re.findall(r"^    [\w-]+-s0-[0-9a-f]{8} +missing", out, re.MULTILINE)) == 32
    assert "data:" not in out  # smoke datasets are generated
    rows = plan_rows(capsys, "")
    lines = stdout_of(capsys, "plan table1 figure7").splitlines()
    assert [line.split()[:3] for line in lines[:3]] == [
        ["item", "scale", "missing"], ["table1", "paper", "96"], ["figure7", "paper", "39"],
    ]  # fmt: skip
    lines = stdout_of(capsys, "plan table_a1").splitlines()
    assert "  and 60 more rows (--runs lists the runs of all)" in lines
    assert len({row["run"] for row in rows}) == 96
    assert {row["state"] for row in rows} == {"missing"}
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("only", "methods"),
    [
        ("--only NesT", 3),
        ("--only nest", 3),
        ("--only swin-t", 1),
        ("--only showcase", 4),
        ("--only *-T", 4),
        ("--only *T*", 12),
        ("--only ?est-[ST]", 2),
        ("--only CCT-7/3x1", 1),
        ("--only CCT-7/3×1", 1),
        ("--only cct", 1),
        ("--only PVT --only DeiT-B", 4),
        ("--only NesT --only nest-t", 3),
        ("--only showcase --only NesT-T", 4),
    ],
)
def test_only(capsys: Capture, only: str, methods: int) -> None:
    """Two datasets per method, three seeds each."""
    assert len(plan_rows(capsys, only)) == methods * 2 * 3
    assert len(plan_rows(capsys, f"{only} --seeds 1")) == methods * 2


def test_only_matches_a_prefix_up_to_a_hyphen(capsys: Capture) -> None:
    """'Nes' is not a family, and no method is chosen by accident."""
    assert "did you mean NesT-" in error_of(capsys, "plan table1 --only Nes")


def test_images_256px(capsys: Capture) -> None:
    out = stdout_of(capsys, "plan table2 --images 256px --only NesT-T --seeds 1 --runs")
    assert "nest-tiny-imagenet-imagenet-256px-300ep-s0-" in out
    out = stdout_of(capsys, "table2 --images 256px --dry-run --out .")
    assert "tables/table2_256px.md" in out
    assert "read from 256-px crops" in out
    assert "which the demo scale does not have" in error_of(
        capsys, "table2 --images 256px --scale demo"
    )


def test_states_in_plan_and_status(capsys: Capture) -> None:
    finish(RUNS["NesT-T"], top1=90.0)
    results.begin(Path("results"), RUNS["NesT-S"])
    damaged = finish(RUNS["NesT-B"], top1=90.0)
    damaged.write_text("{")
    states = {row["run"]: row["state"] for row in plan_rows(capsys, "--only NesT --seeds 1")}
    assert states[RUNS["NesT-T"].id] == "done"
    assert states[RUNS["NesT-S"].id] == "started"
    assert states[RUNS["NesT-B"].id] == "damaged"
    (paper, *others) = json.loads(stdout_of(capsys, "status table1 --json --seeds 1"))
    assert (paper["item"], paper["scale"]) == ("table1", "paper")
    assert paper["counts"] == {"missing": 29, "done": 1, "started": 1, "damaged": 1}
    (broken,) = (row for row in paper["runs"] if row["state"] == "damaged")
    assert str(damaged) in broken["note"]
    num_proxy = len(plan.runs(experiments.get("table1").cells, "proxy", 1))  # with chosen rates
    assert {row["scale"]: row["counts"] for row in others} == {
        "proxy": {"missing": num_proxy},
        "demo": {"missing": 30},
        "smoke": {"missing": 32},
    }
    out = stdout_of(capsys, "status table1 --seeds 1")
    assert re.search(r"^item +scale +done +damaged +started +missing$", out, re.MULTILINE)
    assert re.search(r"^table1 +paper +1 +1 +1 +29$", out, re.MULTILINE)
    assert str(damaged) in out


def test_a_running_run_is_shown_with_its_process(capsys: Capture) -> None:
    own_lease = lease.acquire(results.begin(Path("results"), RUNS["NesT-T"]))
    assert {row["state"] for row in plan_rows(capsys, "--only NesT-T --seeds 1")} == {
        "running",
        "missing",
    }
    assert f"starting, process {os.getpid()} on " in stdout_of(capsys, "plan table1 --only NesT-T")
    assert f"process {os.getpid()} on " in stdout_of(capsys, "status")
    own_lease.release()
    assert "process" not in stdout_of(capsys, "status")


def test_results_elsewhere(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(RUNS["NesT-T"], top1=90.0)
    Path("results").rename("elsewhere")
    for option in ("--results elsewhere", f"--results={tmp_path}/elsewhere"):
        assert "1 done" in stdout_of(capsys, f"plan table1 {option}")
    monkeypatch.setenv("REPRO_RESULTS", "elsewhere")
    assert "1 done" in stdout_of(capsys, "plan table1")
    assert "1 done" not in stdout_of(capsys, "plan table1 --results results")


def test_missing_results_folder(capsys: Capture, here: Path) -> None:
    """plan and status warn; rendering does not overwrite tables with empty ones."""
    table = here / "tables" / "table1.md"
    table.parent.mkdir()
    table.write_text("kept")
    (here / "a-file").write_text("kept")
    before = snapshot(here)
    for line in ("plan table1", "status", "failures"):
        status, _, err = run_command(capsys, f"{line} --results typo")
        assert status == 0
        assert_one_line(err)
        assert "there is no folder typo" in err
    for line in ("table1", "table1 --dry-run", "table1 --results typo"):
        error = error_of(capsys, line)
        assert "so the tables would be empty; train with --launch local" in error
    for verb in ("table1", "plan table1", "status", "doctor", "retry table1 --launch local"):
        assert "a-file is a file" in error_of(capsys, f"{verb} --results a-file")
    assert snapshot(here) == before
    stdout_of(capsys, "table1 --results typo --out elsewhere")
    assert "not run" in (here / "elsewhere/tables/table1.md").read_text()
    assert table.read_text() == "kept"


def test_results_of_a_new_user(
    capsys: Capture, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A results folder need not exist for a plan or a launch."""
    monkeypatch.setenv("REPRO_RESULTS", str(here / "new"))
    assert "96 runs: 96 missing" in run_command(capsys, "plan table1")[1]
    assert "2 missing" in stdout_of(
        capsys, "table1 --launch local --scale smoke --only NesT-T --dry-run"
    )
    monkeypatch.setenv("REPRO_RESULTS", "")
    assert "96 runs: 96 missing" in stdout_of(capsys, "plan table1")
    monkeypatch.setenv("REPRO_RESULTS", "/dev/null")
    stdout_of(capsys, "plan table1 --results .")  # an unused variable may be invalid
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("value", ["a-file", "~nobodyhere", "x" * 300])
@pytest.mark.parametrize("variable", ["REPRO_DATA", "REPRO_WEIGHTS", "REPRO_CLUSTER"])
def test_an_unusable_path_in_a_variable_is_an_error_when_needed(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    Path("a-file").write_text("kept")
    monkeypatch.setenv(variable, value)
    stdout_of(capsys, "table_a6 --out .")  # not needed here
    stdout_of(capsys, "plan --help")
    if (variable, value) == ("REPRO_CLUSTER", "a-file"):
        return  # a file is expected
    where = "slurm" if variable == "REPRO_CLUSTER" else "local"
    for line in (f"table_a6 --launch {where}", f"retry table_a6 --launch {where}"):
        Path("results").mkdir(exist_ok=True)
        assert error_of(capsys, line).startswith(f"repro: {variable}: {value}")


def test_a_missing_site_file_is_named_with_its_variable(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPRO_CLUSTER", "nowhere.yaml")
    error = error_of(capsys, "plan table1")
    assert error.startswith("repro: REPRO_CLUSTER: nowhere.yaml: no such file; `repro doctor")


# --- rendering -----------------------------------------------------------------------------------


def test_rendering_writes_three_files_and_prints_the_table(capsys: Capture, here: Path) -> None:
    finish(RUNS["NesT-T"], top1=90.0)
    out = stdout_of(capsys, "table1")
    paths = [Path(f"tables/table1.{ending}") for ending in ("md", "tex", "csv")]
    assert out.splitlines()[-3:] == list(map(str, paths))
    assert out.startswith(paths[0].read_text())
    drawn = {p for p in here.rglob("*") if p.is_file() and not p.is_relative_to(here / "results")}
    assert drawn == {here / path for path in paths}
    stdout_of(capsys, "table1 --scale demo --out elsewhere")
    assert Path("elsewhere/tables/demo/table1.md").read_text() != paths[0].read_text()


@pytest.mark.parametrize("scale", SCALES)
def test_every_item_renders_without_results(capsys: Capture, here: Path, scale: Scale) -> None:
    stdout_of(capsys, f"all --scale {scale} --out .")
    folder = here / "tables" / ("" if scale == "paper" else scale)
    found = [e for e in map(experiments.get, experiments.names()) if runs_at_scale(e.cells, scale)]
    assert found
    for item in found:
        text = (folder / f"{item.name}.md").read_text()
        assert "not run" in text.lower(), item.name
        drawn = here / "figures" / folder.relative_to(here / "tables") / f"{item.name}.svg"
        assert drawn.exists() == bool(item.plot), item.name


@pytest.mark.parametrize(
    "options",
    ["", "--launch local", "--launch local --scale demo", "--launch local --scale smoke"],
)
def test_a_dry_run_writes_nothing(capsys: Capture, here: Path, options: str) -> None:
    finish(RUNS["NesT-T"], top1=90.0)
    before = snapshot(here)
    only = "--only NesT" if options else ""
    out = stdout_of(capsys, f"table1 {only} --seeds 2 --dry-run {options}")
    assert "would write tables/" in out
    if options:
        count = 11 if options == "--launch local" else 12
        assert f"\n{count} runs: {count} missing\n" in out
    assert snapshot(here) == before


def test_all_existing_seeds_are_rendered(capsys: Capture) -> None:
    """Three default seeds do not hide five trained ones."""
    for run in with_seeds(RUNS["NesT-T"], 5):
        finish(run, top1=90.0)
    assert "(5)" in stdout_of(capsys, "table1")
    assert "(2)" in stdout_of(capsys, "table1 --seeds 2")


def test_a_damaged_result_is_skipped_in_tables_and_stops_a_launch(
    capsys: Capture, here: Path
) -> None:
    finish(RUNS["NesT-S"], top1=91.5)
    damaged = finish(RUNS["NesT-T"], top1=90.0)
    damaged.write_text('{"status": "done", "metr')
    before = snapshot(here / "results")
    status, out, err = run_command(capsys, "table1")
    assert status == 0
    assert_one_line(err)
    assert err.startswith(f"repro: warning: {damaged} is damaged")
    assert "91.50" in out
    assert "90.00" not in out
    error = error_of(capsys, "table1 --launch local --only NesT")
    assert str(damaged) in error
    assert "away and run again" in error
    assert str(damaged) in error_of(capsys, "table1 --launch local --dry-run")
    assert snapshot(here / "results") == before


def test_another_spec_under_a_known_id_is_refused(capsys: Capture, here: Path) -> None:
    path = finish(RUNS["NesT-T"], top1=90.0).with_name(results.SPEC)
    stored = json.loads(path.read_text())
    stored["recipe"]["drop_path"] = 0.5
    path.write_text(json.dumps(stored))
    before = snapshot(here / "results")
    error = error_of(capsys, "table1 --launch local --only NesT-T")
    assert "recipe.drop_path: 0.5 stored, 0.1 now" in error
    assert str(path.parent) in error
    assert "move the folder away" in error
    status, out, err = run_command(capsys, "table1")
    assert status == 0
    assert "recipe.drop_path" in err
    assert "90.00" not in out
    assert snapshot(here / "results") == before


def test_an_output_folder_that_cannot_be_written(capsys: Capture, here: Path) -> None:
    finish(RUNS["NesT-T"], top1=90.0)
    (here / "a-file").write_text("kept")
    assert "a-file is a file, where a folder is expected" in error_of(capsys, "table1 --out a-file")
    (here / "tables").write_text("kept")
    error = error_of(capsys, "table1")
    assert "cannot write to tables: File exists; choose --out DIR" in error
    (here / "tables").unlink()
    (here / "tables" / "table1.tex").mkdir(parents=True)
    status, _, err = run_command(capsys, "table1")
    assert status == 2
    assert_one_line(err)
    assert "tables/table1.tex" in err


# --- the price of a launch -----------------------------------------------------------------------


def test_an_expensive_launch_needs_confirmation(capsys: Capture, here: Path) -> None:
    """A launch of unknown price, or above the site's limit, needs --yes or --budget."""
    (here / "site.yaml").write_text("limit_gpu_hours: 50\n")
    line = "table1 --launch slurm --cluster site.yaml"
    assert "96 runs: unknown price; this site's limit_gpu_hours is 50. Add --yes, or " in error_of(
        capsys, line
    )
    for run in with_seeds(RUNS["NesT-T"], 3):
        device = {"device": "NVIDIA H100 80GB HBM3", "seconds": 3600.0 * 20}
        finished.finish(Path("results"), run, provenance=device)
    only = f"{line} --only NesT-T"
    assert "3 runs: unknown price" in error_of(capsys, only)
    more = "table1 --launch slurm --cluster site.yaml --only NesT-T --seeds 6"
    assert "up to 60 GPU-hours and 6 of unknown price" in error_of(capsys, more)
    before = snapshot(here)
    assert "Add --yes, or --budget 50gpuh" in stdout_of(capsys, f"{more} --dry-run")
    assert "Add --yes" not in stdout_of(capsys, f"{more} --dry-run --yes")
    out = stdout_of(capsys, f"{more} --dry-run --budget 60gpuh")
    assert "would submit 3 of 6 runs" in out
    assert "1 of 37 claims are decided, with 3 runs" in out  # of the others, rivals are missing
    assert snapshot(here) == before
    for confirmed in (f"{more} --yes", f"{more} --budget 50gpuh", f"{line} --scale smoke"):
        _, _, err = run_command(capsys, confirmed)
        assert "Add --yes" not in err


# --- data ----------------------------------------------------------------------------------------


def test_a_damaged_archive_is_named_and_kept(capsys: Capture, here: Path) -> None:
    archive = here / "data" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    archive.write_bytes(b"truncated")
    error = error_of(capsys, "prepare cifar10")
    assert "data/cifar-10-python.tar.gz" in error
    assert "repro prepare cifar10" in error
    assert archive.read_bytes() == b"truncated"


def test_prepare_of_embedded_and_smoke_datasets(capsys: Capture) -> None:
    assert "nothing to fetch" in stdout_of(capsys, "prepare fashion-mnist-6k")
    assert "verified" in stdout_of(capsys, "prepare cifar10-smoke --data elsewhere")
    assert Path("elsewhere").is_dir()


def test_doctor(capsys: Capture, here: Path) -> None:
    out = stdout_of(capsys, "doctor")
    absent = [line for line in out.splitlines() if line.startswith("--")]
    for name in ("cifar10", "cifar100", "fashion-mnist"):
        assert any(f"repro prepare {name} " in line for line in absent)
    assert len(absent) == 8
    Path("results").write_text("")
    assert "results is a file" in error_of(capsys, "doctor")
    status, out, err = run_command(capsys, "doctor --results /proc/1/fdinfo")
    assert (status, err) == (2, "")
    (missing,) = (line for line in out.splitlines() if line.startswith("MISS"))
    assert "/proc/1/fdinfo" in missing


# --- training, in processes of its own -----------------------------------------------------------


def start_command(line: str) -> subprocess.Popen[str]:
    """Start a command in its own process group, as a terminal does, so that it gets Ctrl-C."""
    return subprocess.Popen(
        [sys.executable, "-m", "repro", *line.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish_process(process: subprocess.Popen[str]) -> tuple[int, str, list[str]]:
    """Exit status, output, and the lines of errors of a process."""
    with process:
        out, err = process.communicate(timeout=300)
    assert "Traceback" not in err, err
    return process.returncode, out, err.splitlines()


def test_a_launch_without_data_trains_nothing(here: Path) -> None:
    status, out, lines = finish_process(
        start_command("table1 --launch local --only NesT-T --seeds 1")
    )
    assert (status, out) == (2, "")
    assert sum(line.startswith("repro: ") for line in lines) == 1
    assert lines[-1].startswith("repro: ")
    assert "data/cifar-10-batches-py" in lines[-1]
    assert "repro prepare cifar10" in lines[-1]
    assert list(here.iterdir()) == []


def test_a_launch_into_results_that_cannot_be_written(here: Path) -> None:
    (here / "a-file").write_text("kept")
    line = "table1 --launch local --scale demo --only NesT-T --results a-file/results"
    status, out, lines = finish_process(start_command(line))
    assert (status, out) == (2, "")
    assert lines[-1] == ("repro: a-file/results: Not a directory; name another path")
    assert (here / "a-file").read_text() == "kept"


def test_cancel_stops_a_launcher_s_waiting_runs(capsys: Capture) -> None:
    line = "table1 --launch local --scale demo --only NesT-T --seeds 2 --jobs 1"
    first = start_command(f"{line} --checkpoint-seconds 0")
    while not list(Path("results").glob("*/checkpoints/step*.pt")):
        assert first.poll() is None, finish_process(first)
        time.sleep(0.05)
    out = stdout_of(capsys, "cancel table1 --scale demo")
    assert (out.count("running  "), out.count("queued   ")) == (1, 3)
    assert "cancelled 4 runs; those in training save their state" in out
    status, _, lines = finish_process(first)
    assert status == 1
    assert sum(line.endswith(" cancelled") or " cancelled: " in line for line in lines) == 4
    assert len(list(Path("results").glob("*/log.txt"))) == 1
    states = Counter(row["state"] for row in json.loads(stdout_of(capsys, "failures --json")))
    assert states == {"cancelled": 4}
    assert "4 cancelled" in stdout_of(capsys, f"retry {line.replace('--jobs 1', '--dry-run')}")


def test_ctrl_c_saves_and_a_second_launcher_names_the_first(capsys: Capture) -> None:
    fashion, glyphs = (at_scale(c.run, "demo") for c in TABLE1.cells if c.row == "NesT-T")
    finish(glyphs, top1=50.0)  # leaves one run to train
    folder = results.folder(Path("results"), fashion)
    line = "table1 --launch local --scale demo --only NesT-T --seeds 1"
    first = start_command(f"{line} --checkpoint-seconds 0")
    while not list(folder.glob("checkpoints/step*.pt")):
        assert first.poll() is None, finish_process(first)
        time.sleep(0.05)
    holder = (lease.read(folder) or {})["pid"]
    assert f"process {holder} on " in stdout_of(capsys, "status")

    # The same command at the same time trains nothing, names the process, and renders.
    status, out, lines = finish_process(start_command(line))
    assert status == 1
    assert " 50.00 (1) " in out  # alone in its column, so not bold
    (locked,) = (line for line in lines if " locked: " in line)
    assert f"{fashion.id} is being trained by process {holder} on " in locked

    # Ctrl-C reaches the launcher and all of its processes, again and again.
    for _ in range(3):
        os.killpg(first.pid, signal.SIGINT)
        time.sleep(0.1)
    status, out, lines = finish_process(first)
    assert (status, out) == (130, "")
    assert lines[-1] == "repro: interrupted; the same command resumes"
    assert list(folder.glob("checkpoints/step*.pt"))
    assert not lease.seems_locked(lease.read(folder) or {})
    plan = stdout_of(capsys, "plan table1 --scale demo --only NesT-T --seeds 1")
    assert "2 runs: 1 done, 1 interrupted" in plan


# Runs a program, and interrupts it where it imports a module.
INTERRUPTED = """
import os, runpy, signal, sys
program, module = sys.argv[1:3]
class Interruption:
    def find_spec(self, name, *_):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interruption())
sys.argv[1:] = sys.argv[3:]
run = runpy.run_path if os.path.exists(program) else runpy.run_module
run(program, run_name="__main__")
"""


@pytest.mark.parametrize(
    ("program", "module", "words"),
    [
        ("repro", "repro.cli", "list"),
        ("repro", "jsonargparse", "plan table1"),
        (str(ROOT / "scripts/gpu_check"), "torch", "--device cpu"),
        (str(ROOT / "scripts/gpu_check"), "timm", "--device cpu"),
    ],
)
def test_ctrl_c_while_a_program_loads_is_one_line(program: str, module: str, words: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, program, module, *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "line",
    [
        "table1 --scale demo --speed compiled --checkpoint-seconds 0",
        "figure5_left --speed plain --micro-batch 4",
        "figure5_left --scale demo --speed compiled",  # the classifier that measures is compiled
        "figure2 --scale demo --micro-batch 4",  # its classifiers are trained on the way
        "table2 --decode nvjpeg --weights .",
    ],
)
def test_an_option_that_applies_to_some_run_is_accepted(
    capsys: Capture, here: Path, line: str
) -> None:
    stdout_of(capsys, f"{line} --launch local --dry-run --out .")
