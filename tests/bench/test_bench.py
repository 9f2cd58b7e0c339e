"""`repro bench`: real benchmarks with few rounds, what is kept of them, and the page from that."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro import cli
from repro.bench import (
    BENCHMARKS,
    RECORDS,
    BenchError,
    BenchOptions,
    augmentation,
    loader,
    localization,
    machine,
    memory,
    nest,
    nest_side,
    page,
    record,
    run,
    small,
    startup,
    submission,
)
from repro.bench.measure import interleave
from repro.bench.record import Comparison
from repro.bench.side import Side
from repro.launch import code

ROOT = page.TEMPLATE.parents[1]
times = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=9)


# --- measuring -----------------------------------------------------------------------------------


def test_machine_from_the_measurement_to_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "SIDES", {"cpu": 64})
    monkeypatch.setattr(machine, "NUMBERS", {"cpu": 2**12})
    template = f"bench machine --rounds 2 --records {tmp_path} --write {tmp_path}/page.md"
    assert cli.main(template.split()) == 0
    (made,) = record.read_all(tmp_path)
    assert made.benchmark == "machine"
    assert made.threads == 1
    assert [len(each.ours) for each in made.comparisons] == [2] * len(made.comparisons)
    printed = capsys.readouterr().out
    assert all(each.name in printed for each in made.comparisons)
    drawn = (tmp_path / "page.md").read_text()
    assert "GFLOP/s" in drawn
    assert "Not measured yet: `repro bench nest`." in drawn


def test_nest_beside_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nest, "BATCHES", {"cpu": 2})
    found = list(nest.measure(BenchOptions(rounds=1, only=("cifar",))))
    kinds = {each.name.split(", ")[1] for each in found}
    assert kinds == {"inference", "training step"}
    assert all(len(each.ours) == len(each.theirs) == 1 for each in found)
    work = {each.name: each.flop for each in found if each.precision == "fp32"}
    assert 2.5 < work["cifar, training step, fp32"] / work["cifar, inference, fp32"] < 3
    peers = ["timm, fp32", "timm, fp32, our settings", "timm, fp32", "timm, bf16"]
    assert [each.peer for each in found] in (2 * peers, 2 * peers[:2])  # with and without bf16
    assert 4e9 < work["cifar, inference, fp32"] < 5e9


def test_outputs_that_differ_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nest, "BATCHES", {"cpu": 2})
    monkeypatch.setattr(nest, "TOLERANCE", -1.0)
    with pytest.raises(BenchError, match=r"outputs differ by .* from timm's"):
        next(iter(nest.measure(BenchOptions(rounds=1, only=("cifar",)))))


def test_a_small_model_beside_another_commit() -> None:
    (found,) = small.measure(BenchOptions(rounds=1, only=("NesT-T",), against="HEAD"))
    assert len(found.ours) == len(found.theirs) == 1
    assert re.fullmatch("commit [0-9a-f]{12}", found.peer)  # HEAD is another one tomorrow
    assert 1e8 < found.flop < 1e9


def test_a_commit_that_there_is_not() -> None:
    """Neither is a folder or a file of a commit."""
    for name in ("nowhere", "HEAD^{tree}", "HEAD:README.md", "-x"):
        with pytest.raises(BenchError, match=r"--against .*; name a commit") as caught:
            next(iter(small.measure(BenchOptions(rounds=1, only=("NesT-T",), against=name))))
        assert "\n" not in str(caught.value)


def test_a_commit_whose_code_is_older_than_what_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "repro").mkdir()
    (tmp_path / "repro/__init__.py").touch()
    monkeypatch.setattr(small, "_checkout", lambda commit, folder: tmp_path)
    with pytest.raises(BenchError, match=r"\(ImportError: .*\); .* a later commit") as caught:
        next(iter(small.measure(BenchOptions(rounds=1, only=("NesT-T",), against="HEAD"))))
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err


def test_a_command_that_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_RESULTS", __file__)
    monkeypatch.setattr(startup, "COMMANDS", ("status",))
    with pytest.raises(BenchError, match=r"repro status failed \(2\): .* is a file"):
        next(iter(startup.measure(BenchOptions(rounds=1))))


@pytest.mark.parametrize("installed", ["elsewhere", "into a checkout of others"])
def test_code_outside_its_checkout_has_no_commit(
    installed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages/repro"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    if installed == "into a checkout of others":
        git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=b"]
        subprocess.run([*git, "init", "-q"], check=True)
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    monkeypatch.setattr(code, "PACKAGE", package)
    assert code.identity()["commit"] == ""
    each = Comparison(name="x", unit="s", ours=[1.0])
    made = record.make("nest", "CPU", 1, [each])
    assert (made.commit, made.changed) == ("", False)
    with pytest.raises(BenchError, match="no checkout of this code; take it out"):
        next(iter(small.measure(BenchOptions(against="HEAD"))))


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ("raise SystemExit", r"ended at 'x' \(exit status 0\); see the lines above"),
        ("import os; os.kill(os.getpid(), 9)", r"ended at 'x' \(signal 9: Killed\); if memory"),
    ],
)
def test_a_side_that_ends_early(last: str, message: str) -> None:
    with Side(["-c", last]) as side, pytest.raises(BenchError, match=message):
        side.ask("x", float)


def test_an_error_counts_the_comparisons_that_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(_: BenchOptions) -> Iterator[Comparison]:
        yield Comparison(name="x", unit="s", ours=[1.0])
        raise BenchError("gone")

    monkeypatch.setattr(machine, "measure", measure)
    with pytest.raises(BenchError, match="gone; the 1 above are not recorded"):
        run.measure("machine", BenchOptions())


def test_augmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "IMAGES", 128)
    found = list(augmentation.measure(BenchOptions(rounds=1)))
    assert {each.peer.split(",")[0] for each in found} == {"timm", "torchvision v2"}


def test_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "COUNT", 4)
    found = list(loader.measure(BenchOptions(rounds=1)))
    assert [each.name for each in found] == [*loader.PEERS]


def test_localization(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localization, "MAPS", 2)
    assert len(list(localization.measure(BenchOptions(rounds=1)))) == 1
    monkeypatch.setattr(localization, "agree", lambda *_: False)
    with pytest.raises(BenchError, match="not those of the sweep"):
        next(iter(localization.measure(BenchOptions(rounds=1))))


def test_memory_is_below_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nest_side, "SIZES", {"cifar": nest_side.SIZES["cifar"]})
    found = list(memory.measure(BenchOptions()))
    assert [each.precision for each in found] == ["fp32", "bf16"]
    assert all(each.ours <= each.theirs for each in found)


def test_startup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "COMMANDS", ("--help", "table1 --out {}"))
    monkeypatch.setattr(startup, "IMPORT", ["true"])
    found = list(startup.measure(BenchOptions(rounds=1)))
    assert [each.name for each in found] == ["repro --help", "repro table1"]


def test_submission_to_a_real_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "SEEDS", 1)
    submitted, status = submission.measure(BenchOptions(rounds=1))
    assert submitted.name == "repro table1 --launch slurm, 30 runs"
    assert (submitted.theirs, status.theirs) != ([], [])


def test_one_that_cannot_be_had_does_not_keep_the_others_from_being_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # no SLURM
    monkeypatch.setattr("repro.testbed.cluster._SYSTEM_FOLDERS", "/nowhere")
    monkeypatch.setattr(machine, "SIDES", {"cpu": 64})
    monkeypatch.setattr(machine, "NUMBERS", {"cpu": 2**12})
    template = f"bench submission machine --rounds 1 --records {tmp_path}"
    assert cli.main(template.split()) == 2
    assert [made.benchmark for made in record.read_all(tmp_path)] == ["machine"]
    assert capsys.readouterr().err.startswith("repro: submission: ")


def test_turns_are_reversed_in_every_other_round_and_two_warm_up() -> None:
    calls = list[str]()

    def way(name: str) -> float:
        calls.append(name)
        return len(calls)

    taken = interleave({name: partial(way, name) for name in "ab"}, 2)
    assert "".join(calls) == "abbaabba"
    assert taken == {"a": [5, 8], "b": [6, 7]}


def test_the_summary_has_the_ranges_over_the_sizes() -> None:
    factors = {"tiny": (2.0, 1), "small": (4.0, 2), "base": (8.0, 3), "cifar": (1.0, 9)}
    peak = Comparison(name="p", unit="s", ours=[1.0], flop=1e9, precision="fp32", per_second=1)
    each = [
        Comparison(name=f"{name}, inference, fp32", unit="ms an image", ours=[ours], peer="timm",
                   theirs=[2 * ours * more], flop=1e6, precision="fp32")
        for name, (ours, more) in factors.items()
    ]  # fmt: skip
    machine = record.make("machine", "CPU", 1, [peak])
    *_, row = page._summary([record.make("nest", "CPU", 1, each)], page._peaks([machine])).split(
        "\n"
    )
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "CPU", "inference, fp32", "timm", "2.00 to 6.00", "4.00 to 48.0",
    ]  # fmt: skip


@given(ours=times, factor=st.floats(0.01, 100))
def test_a_peer_that_always_takes_so_many_times_as_long(ours: list[float], factor: float) -> None:
    found = page.ratio([factor * value for value in ours], ours)
    assert [found.least, found.median, found.most] == pytest.approx([factor] * 3)


@given(st.lists(times, min_size=1, max_size=4), st.floats(0.01, 100))
def test_the_geometric_mean_of_equal_ratios(each: list[list[float]], factor: float) -> None:
    found = [
        Comparison(name="x", unit="s", ours=ours, peer="p", theirs=[factor * v for v in ours])
        for ours in each
    ]
    mean = page.geometric_mean(found)
    assert [mean.least, mean.median, mean.most] == pytest.approx([factor] * 3)


# --- the command line ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("bench", "no benchmark named; `repro bench --list` lists them"),
        ("bench --rounds 2", "no benchmark named"),
        ("bench nesst", "did you mean nest?"),
        ("bench machine --only tiny", "--only is for nest and small"),
        ("bench machine --against HEAD", "--against is for small"),
        ("bench machine small --against nowhere", "--against 'nowhere': "),
        ("bench machine nest --only tinny", "did you mean tiny?"),
        ("bench machine nest --only ,", "--only names no model"),
        ("bench --rounds 0", "--rounds: a whole number from 1"),
        ("bench machine --records a-file", "is a file, where a folder is expected"),
        ("bench machine --records a-file/x", "Not a directory; name another"),
        ("bench machine --records /proc/x", "another with --records DIR"),
        ("bench machine --records x --write a-file/x.md", "Not a directory; name another"),
        ("bench machine --records x --write /proc/x/y.md", "another with --write FILE.md"),
        ("bench machine --records x --write .", "--write . is a folder; name a file"),
        ("bench machine --records x --write x", "name a file that ends with .md"),
        ("bench machine --records x --write other.md", "other.md is another page"),
        ("bench machine --records x --write /dev/null", "not a regular file"),
        ("bench machine --records damaged --write x.md", "nest-cpu.json is damaged ("),
        ("bench --records damaged --write x.md", "nest-cpu.json is damaged ("),
        ("bench --records unreadable --write x.md", "nest-cpu.json cannot be read ("),
        ("bench --records none --write x.md", "none has no records"),
        ("bench --write x.md --rounds 3", "take --rounds out"),
        ("bench memory --rounds 3", "memory is counted, not timed"),
        ("bench --list --rounds 3", "take --rounds out"),
        ("bench nest --list --only tiny", "take --only out"),
    ],
)
def test_wrong_usage_is_one_line(
    template: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "a-file").touch()
    (tmp_path / "other.md").write_text("# Something else\n")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "unreadable").mkdir()
    write_record(tmp_path / "damaged", "{")
    (tmp_path / "unreadable/nest-cpu.json").symlink_to("nest-cpu.json")  # a loop
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "measure", None)  # nothing is measured in vain
    assert cli.main(template.split()) == 2
    assert not (tmp_path / "x.md").exists()
    assert message in (err := capsys.readouterr().err)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("template", "lack"),
    [
        ("bench machine --rounds 2", "fewer than 5 rounds"),
        ("bench nest --only tiny", "of tiny only"),
        ("bench small", "without --against"),
        ("bench machine --rounds 5", ""),
        ("bench machine --rounds 2 --records elsewhere", ""),
    ],
)
def test_only_a_complete_measurement_replaces_a_record(
    template: str, lack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    each = Comparison(name="x", unit="s", ours=[1], flop=1e9)
    for module in (machine, nest, small):
        monkeypatch.setattr(module, "measure", lambda _: [each])
    assert cli.main(template.split()) == 0
    output = capsys.readouterr().out
    assert (f"not recorded: {lack}; --records DIR" in output) == bool(lack)
    folder = "elsewhere" if "elsewhere" in template else RECORDS
    assert len(record.read_all(tmp_path / folder)) == (not lack)


def test_the_list_names_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--list"]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split()[0] == "benchmark"
    assert [row.split()[0] for row in rows] == [*BENCHMARKS]


# --- what is on file -----------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "benchmark": "nest",
    "device": "CPU x86_64 AVX2",
    "threads": 1,
    "versions": {"torch": "2.14.1+cu130"},
    "commit": "0123456789ab",
    "changed": False,
    "date": "2026-01-31",
    "comparisons": [
        {"name": "NesT tiny", "unit": "ms", "ours": [1.0, 2.0], "peer": "timm", "theirs": [3, 4],
         "flop": 1e9, "bytes": 1e6, "per_second": 1e3, "precision": "fp32"}
    ],
}  # fmt: skip


def write_record(folder: Path, text: str) -> Path:
    path = folder / "nest-cpu.json"
    path.write_text(text)
    return path


def as_text(**values: object) -> str:
    return json.dumps({**GOOD, **values})


def of_comparison(**values: object) -> str:
    return as_text(comparisons=[{**GOOD["comparisons"][0], **values}])


def of_peak(**values: object) -> str:
    peak = {"name": "x", "unit": "ms", "ours": [1.0], "precision": "fp32"}
    return as_text(benchmark="machine", comparisons=[{**peak, **values}])


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "null", "{", "[" * 100_000, as_text(benchmark="nesst"), as_text(benchmark=3),
        as_text(device=None), as_text(device="x" * 201), as_text(threads=0),
        as_text(threads=10**30), as_text(versions={"torch": "<b>"}), as_text(commit="a|b"),
        as_text(date="yesterday"), as_text(comparisons=[]), as_text(comparisons="none"),
        of_comparison(ours=[]), of_comparison(ours=[0, 1]), of_comparison(ours=[-1, 1]),
        of_comparison(ours=[1e16, 1]), of_comparison(ours=[True, 1]), of_comparison(ours=["1", 1]),
        of_comparison(ours=[1]), of_comparison(theirs=[]), of_comparison(peer=""),
        of_comparison(theirs=[math.nan, 1]), of_comparison(ours=[math.inf, 1]),
        of_comparison(flop=-1), of_comparison(bytes="1"), of_comparison(per_second=0),
        of_comparison(name=["x"]), of_comparison(precision="fp8"), of_comparison(flop=0.5),
        of_comparison(bytes=1e-9), as_text(date="2026-13-01"), as_text(date="2026-02-30"),
        of_peak(flop=0.0), of_peak(flop=1.0), of_peak(flop=1e18, ours=[1e-9]),
    ],
)  # fmt: skip
def test_a_damaged_record_is_one_line_that_names_it(text: str, tmp_path: Path) -> None:
    path = write_record(tmp_path, text)
    with pytest.raises(BenchError) as caught:
        record.read_all(tmp_path)
    assert str(caught.value).startswith(f"{path} is damaged (")
    assert "\n" not in str(caught.value)


def test_a_good_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    first = record.read(write_record(tmp_path, json.dumps(GOOD)))
    assert record.read(record.write(tmp_path / "new", first)) == first


@given(st.text(max_size=40), st.floats(1e-14, 1e15), st.floats(1e-14, 1e15))
def test_whatever_a_record_says_a_table_has_its_rows_and_no_html(
    text: str, ours: float, theirs: float
) -> None:
    hostile = f"<script>a|b</script> [x](http://y) {text}"
    each = Comparison(name=hostile, unit=hostile, ours=[ours], peer=hostile, theirs=[theirs],
                      flop=1e18, precision="fp32")  # fmt: skip
    made = record.make("nest", hostile, 1, [each])
    lines = page._table(made, {}).splitlines()
    assert len(lines) == 5
    assert not any("<" in line or "](" in line for line in lines)
    assert {line.replace(r"\|", "").count("|") for line in lines[2:]} == {6}


# --- the page ------------------------------------------------------------------------------------


def test_the_committed_page_is_what_the_records_say() -> None:
    drawn = page.render(page.TEMPLATE, record.read_all(ROOT / "benchmarks/records"))
    assert drawn == (ROOT / "docs/performance.md").read_text()


def test_the_page_has_a_place_for_every_benchmark() -> None:
    template = page.TEMPLATE.read_text()
    assert [name for name in BENCHMARKS if f"\n{{{name}}}\n" not in template] == []


def test_a_floor_is_of_the_same_device_and_precision(tmp_path: Path) -> None:
    peak = {"name": "product", "unit": "ms", "ours": [1.0], "flop": 1e9} | {"precision": "fp32"}
    (tmp_path / "machine-cpu.json").write_text(as_text(benchmark="machine", comparisons=[peak]))
    write_record(tmp_path, of_comparison(ours=[2.0, 2.0]))  # twice what 1e9 FLOP take at best
    template = tmp_path / "words"
    template.write_text("{machine}\n\n{nest}\n")
    assert "50%" in page.render(template, record.read_all(tmp_path))
    for other in (of_comparison(precision="bf16"), as_text(device="CPU of others")):
        write_record(tmp_path, other)
        assert "50%" not in page.render(template, record.read_all(tmp_path))


def test_words_about_a_benchmark_that_there_is_not(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("{nesst}\n")
    with pytest.raises(BenchError, match="no benchmark 'nesst'"):
        page.render(tmp_path / "words", [])
    with pytest.raises(BenchError, match="cannot be read"):
        page.render(tmp_path / "none", [])
