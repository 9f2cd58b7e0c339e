"""Damaged files in results/: no command ends with a traceback, and valid runs are still shown."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from repro import experiments, results
from repro.cli import main
from repro.core import artifacts, output, plan
from repro.core.scales import runs_at_scale
from repro.kinds import traversal
from repro.launch import lease
from repro.launch.slurm import cluster, submission
from repro.spec import Run

COMMITTED = Path(__file__).parents[1] / "results"
ITEMS = ("figure6_bottom", "figure4", "figure3_left", "figure5_left", "table_a6")
TEXTS = ("", "x\x1b[2J\x07", "# Mine\n\n<script>alert(1)</script>|[a](b)", "\u202e\x00", "9" * 5000)
CHECKED = (results.SPEC, results.RESULT, *artifacts.checked_files())
EVIL = ("\x1b", "\x07", "\x00", "\u202e")

Spoiled = tuple[Path, bytes | None, str]  # a file, its content; without any, what is in its place


def runs_of(item: str) -> list[Run]:
    return plan.runs(experiments.get(item).cells, "demo", 1)


CELLS = {item: experiments.get(item).cells for item in ITEMS}
RUNS = {run.id: (item, run) for item in reversed(ITEMS) for run in runs_of(item)}
TREES = next(
    name for name, (item, _) in RUNS.items() if item == "figure3_left" and "gradcat" in name
)
FID = next(name for name, (item, _) in RUNS.items() if item == "figure5_left" and "wrn" not in name)
CLASSIFIER = runs_of("figure6_bottom")[0].id
PICTURE = COMMITTED / FID / "samples.png"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of every kind, a run in training, one that was submitted, and a site."""
    made = tmp_path_factory.mktemp("damaged")
    for name in RUNS:
        shutil.copytree(COMMITTED / name, made / "results" / name,
                        ignore=shutil.ignore_patterns("*.safetensors"))  # fmt: skip
    for number, begun in enumerate(runs_of("table1")[:2]):
        folder = results.begin(made / "results", begun)
        content = {"host": "node", "boot": "another", "pid": 1, "process_start": "1",
                   "silence": 600, "beats": 1, "beat": time.time(), "seconds": 5.0,
                   "endings": {}, "generation": 1,
                   "step": 5, "steps": 10, "rate": 1.0, "epoch": 0.5, "loss": 2.0}  # fmt: skip
        if number:
            content |= {"released": True, "cause": "error", "note": "why"}
        (folder / "lease-1.json").write_text(json.dumps(content))
        (folder / "log.txt").write_text("\n--- now\nprinted\n")
    runs = [begun.id for begun in runs_of("table1")[2:4]]
    submitted = submission.new("ab" * 32, "", None, [submission.Array(runs)])
    submitted.arrays[0].job = "7"
    submission.record(made / "results", submitted)
    (made / "site.yaml").write_text("partition: gpu\nresources:\n- time: 12h\n")
    return made


def run_command(root: Path, command: str) -> tuple[str, str]:
    """Run a command; returns its output and errors. It must succeed or be refused."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([*command.split(), "--results", str(root / "results")])
    out.seek(0), err.seek(0)
    texts = out.read(), err.read()
    assert status in (0, 2), texts
    assert "Traceback" not in texts[1]
    assert not [sign for sign in EVIL for text in texts if sign in text], texts
    return texts


def states(root: Path, verb: str) -> dict[str, tuple[str, str]]:
    found = json.loads(run_command(root, verb)[0])
    rows = [row for item in found for row in item["runs"]] if verb.startswith("status") else found
    return {row["run"]: (row["state"], row["note"]) for row in rows}


@contextlib.contextmanager
def spoil_file(path: Path, content: bytes | None, place: str, forged: bool) -> Iterator[None]:
    """A file with another content, or with something else in its place. `forged`: the result has
    the digest of it."""
    folder = path.parent
    kept = {file: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    elif place:
        instead: dict[str, Callable[[], object]] = {
            "folder": path.mkdir,
            "pipe": lambda: os.mkfifo(path),
            "loop": lambda: path.symlink_to(path.name),
        }
        instead[place]()
    result = folder / results.RESULT
    if forged and content is not None and path != result and result in kept:
        about = json.loads(kept[result])
        about.setdefault("files", {})[path.name] = artifacts.digest(content)
        result.write_text(json.dumps(about))
    try:
        yield
    finally:
        if path.is_dir():
            path.rmdir()
        elif os.path.lexists(path):
            path.unlink()
        for file, data in kept.items():
            file.write_bytes(data)


# --- what is put there ---------------------------------------------------------------------------

DEEP: Any = []
for _ in range(40):
    DEEP = [DEEP]
VALUES = st.sampled_from(
    [None, True, -1, 0, 250, 0.5, 1e308, 10**400, *TEXTS, [], {}, [1], {"a": 1}, DEEP, "NaN"]
)


@st.composite
def changed_json(draw: st.DrawFn, content: bytes) -> bytes:
    """A JSON file, or one line of several, with one of its values replaced, removed or added."""
    lines = content.splitlines() if content.count(b"\n{") else [content]
    place = draw(st.integers(0, len(lines) - 1))
    value = json.loads(lines[place])
    holder, where = value, list[Any]()
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            break
        where = [holder, draw(st.sampled_from(keys))]
        inner = holder[where[1]]
        if not isinstance(inner, dict | list) or draw(st.booleans()):
            break
        holder = inner
    how = draw(st.sampled_from(["replace", "remove", "add", "whole"]))
    if how == "whole" or not where:
        value = draw(VALUES)
    elif how == "remove":
        del where[0][where[1]]
    elif how == "add" and isinstance(where[0], dict):
        where[0][draw(st.sampled_from(["run", "seed", "status", "class", "x", *TEXTS]))] = draw(
            VALUES
        )
    else:
        where[0][where[1]] = draw(VALUES)
    text = json.dumps(value).replace('"NaN"', draw(st.sampled_from(["NaN", "Infinity", "1e999"])))
    lines[place] = text.encode()
    return b"\n".join(lines) + b"\n"


@st.composite
def changed_arrays(draw: st.DrawFn, content: bytes) -> bytes:
    """An .npz with one of its arrays missing, or of other values, type or shape."""
    arrays = dict(np.load(io.BytesIO(content)))
    name = draw(st.sampled_from(sorted(arrays)))
    array = arrays[name]
    changes: dict[str, Callable[[], Any]] = {
        "missing": lambda: arrays.pop(name),
        "zeros": lambda: np.zeros_like(array),
        "large": lambda: array + 100 if array.dtype.kind != "U" else array,
        "not numbers": lambda: np.full(array.shape, np.nan, np.float32),
        "flat": lambda: array.ravel(),
        "none": lambda: array[:0],
        "texts": lambda: np.full(array.shape, draw(st.sampled_from(TEXTS)) or " "),
        "one": lambda: np.array(1),
    }
    change = draw(st.sampled_from(sorted(changes)))
    made = changes[change]()
    if change != "missing":
        arrays[name] = np.asarray(made)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


@st.composite
def spoils(draw: st.DrawFn, path: Path) -> tuple[bytes | None, str]:
    """What is to be in the place of a file."""
    content = path.read_bytes()
    kinds = ["cut", "bytes", "deep", "place", *(["json"] if ".json" in path.name else []) * 5,
             *(["arrays"] if path.suffix == ".npz" else []) * 5]  # fmt: skip
    kind = draw(st.sampled_from(kinds))
    if kind == "place":
        return None, draw(st.sampled_from(["", "folder", "pipe", "loop"]))
    made = {
        "cut": st.integers(0, len(content) - 1).map(lambda end: content[:end]),
        "bytes": st.binary(max_size=50),
        "deep": st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000]),
        "json": changed_json(content) if kind == "json" else st.nothing(),
        "arrays": changed_arrays(content) if kind == "arrays" else st.nothing(),
    }
    return draw(made[kind]), ""


def example_count(number: int) -> Callable[[Any], Any]:
    """So many examples, the same every time."""
    return settings(max_examples=number, deadline=None, database=None, derandomize=True,
                    phases=[Phase.generate], suppress_health_check=list(HealthCheck))  # fmt: skip


# --- what holds ----------------------------------------------------------------------------------


@example_count(40)
@given(data=st.data())
def test_one_run_s_folder_may_hold_anything(root: Path, data: st.DataObject) -> None:
    """What is accepted is drawn; a warning names what is not."""
    name = data.draw(st.sampled_from(sorted(RUNS)))
    item, run = RUNS[name]
    paths = (path for path in (root / "results" / name).iterdir() if path.name in CHECKED)
    path = data.draw(st.sampled_from(sorted(paths)))
    content, place = data.draw(spoils(path))
    commands = [f"logs {name}", f"failures {item}", "list", f"cancel {item} --dry-run",
                f"retry {item} --dry-run", f"why --decisions {item}"]  # fmt: skip
    command = data.draw(st.sampled_from(commands))
    with spoil_file(path, content, place, data.draw(st.booleans())):
        looked = states(root, f"status {item} --scale demo --seeds 1 --json")
        planned = states(root, f"plan {item} --scale demo --seeds 1 --json")
        assert looked == {**looked, **planned}
        assert {state for run, (state, _) in looked.items() if run != name} == {"done"}
        run_command(root, command)
        state, note = looked[name]
        wrong = state in ("damaged", "stale")
        assert bool(note) == wrong
        assert str(path.parent) in note or not wrong
        assert "\n" not in note
        frame, warnings = results.measurements(root / "results", plan.runs(CELLS[item], "demo", 1))
        assert warnings == [note] * wrong
        known = dict(zip(frame["run"], frame["status"], strict=True))
        assert known.get(name, "") == (state if state not in ("missing", "started") else "")
        if item == "table_a6" or (not wrong and data.draw(st.integers(0, 3)) == 0):
            draw(root, item, note if wrong and is_stochastic(item, run) else "")
    assert results.outcome(root / "results", run).state == "done"


def is_stochastic(item: str, run: Run) -> bool:
    return run in {here for _, here in runs_at_scale(CELLS[item], "demo")}


def draw(root: Path, item: str, note: str) -> None:
    """Draws an item; a warning has the note, and nothing drawn has markup from a file."""
    _, err = run_command(root, f"{item} --scale demo --seeds 1 --out {root}")
    assert not note or f"warning: {output.line(note)}" in err
    drawn = (root / f"tables/demo/{item}.md").read_text()
    assert "<script" not in drawn
    assert drawn.count("\n# ") == 0
    assert not [sign for sign in EVIL if sign in drawn]


@pytest.mark.parametrize("name", [results.SPEC, results.RESULT])
def test_weights_of_a_damaged_run_are_not_used(root: Path, name: str) -> None:
    cases = ((FID, f"sample {FID}"), (CLASSIFIER, f"explain {PICTURE} --run {CLASSIFIER}"))
    for run, command in cases:
        with spoil_file(root / "results" / run / name, b"{", "", forged=False):
            error = run_command(root, command)[1]
            assert run in error
            assert "damaged" in error


@pytest.mark.parametrize(("item", "name"), [("figure3_left", "trees.npz"), ("figure4", "maps.npz")])
def test_a_figure_without_a_damaged_run_is_drawn(root: Path, item: str, name: str) -> None:
    path = next(p for run in plan.runs(CELLS[item], "demo", 1)
                if (p := root / "results" / run.id / name).exists())  # fmt: skip
    with spoil_file(path, b"PK", "", forged=True):
        note = next(note for state, note in states(root, f"status {item} --json").values() if note)
        assert str(path) in note
        draw(root, item, note)


@example_count(110)
@given(data=st.data())
def test_leases_submissions_and_sites_may_hold_anything(root: Path, data: st.DataObject) -> None:
    paths = [*(root / "results").glob("*/lease-1.json"), root / "site.yaml"]
    paths += (root / "results").glob("submissions/*/submission.json")
    path = data.draw(st.sampled_from(sorted(paths)))
    content, place = data.draw(spoils(path))
    begun = [run.id for run in runs_of("table1")[:4]]
    commands = ["failures table1", "cancel table1 --dry-run", "retry table1 --dry-run",
                f"logs {begun[0]}", f"plan table1 --scale demo --cluster {root / 'site.yaml'}",
                "table1 --scale demo --launch slurm --dry-run "
                f"--cluster {root / 'site.yaml'}"]  # fmt: skip
    with spoil_file(path, content, place, forged=False):
        looked = states(root, "status table1 --scale demo --seeds 1 --json")
        assert {state for run, (state, _) in looked.items() if run not in begun} == {"missing"}
        run_command(
            root, commands[-1] if path.suffix == ".yaml" else data.draw(st.sampled_from(commands))
        )


def problem(reader: Callable[[], object]) -> str:
    """What a reader says is wrong with its file; '' if it takes it."""
    try:
        reader()
    except results.ResultsError as error:
        return str(error)
    return ""


def cuts(content: bytes) -> list[int]:
    """Where a file is cut: within each of the first and last bytes, and before each structure."""
    signs = {place for place, byte in enumerate(content) if chr(byte) in '{}[]":,\n'}
    ends = {*range(20), *(len(content) - 1 - back for back in range(20))}
    return sorted(place for place in signs | ends if 0 <= place < len(content))


def test_a_file_may_be_cut_anywhere(root: Path) -> None:
    """For each kind of run, each file; nothing but a whole one is accepted."""
    by_kind = {type(run).__name__: run for _, run in RUNS.values()}
    for run in by_kind.values():
        folder = results.folder(root / "results", run)
        for name in (results.SPEC, results.RESULT, results.METRICS):
            path = folder / name
            content = path.read_bytes() if path.exists() else b""
            for end in cuts(content)[:: 7 if name == results.METRICS else 1]:
                path.write_bytes(content[:end])
                found = results.outcome(root / "results", run)
                whole = name != results.METRICS and end == len(content) - 1  # but its line break
                assert found.state == ("done" if whole else "damaged"), (path, end)
            if content:
                path.write_bytes(content)


def test_what_a_launch_writes_may_be_cut_at_every_byte(root: Path, tmp_path: Path) -> None:
    record = next((root / "results").glob("submissions/*/submission.json"))
    held = next((root / "results").glob("*/lease-1.json"))
    folder = tmp_path / record.parent.name
    folder.mkdir()
    for file in (record, held):
        content, path = file.read_bytes(), folder / file.name
        for end in range(len(content.rstrip())):
            path.write_bytes(content[:end])
            if file is held:
                assert str(path) in lease.read_or_explain(folder)[1]
                continue
            with pytest.raises(results.ResultsError, match=str(path)):
                submission.read(folder)
    site, content = tmp_path / "site.yaml", (root / "site.yaml").read_bytes()
    for end in range(len(content)):
        site.write_bytes(content[:end])
        with contextlib.suppress(cluster.ClusterError):  # half a file may be a whole one
            cluster.load(site)


@pytest.mark.parametrize("text", TEXTS[1:3])
def test_text_of_a_result_is_escaped_in_every_output(root: Path, text: str) -> None:
    """Of the texts that are drawn: a reference, names in trees and maps, a lease's note."""
    table1 = runs_of("table1")
    lease_path = root / "results" / table1[1].id / "lease-1.json"
    content = json.loads(lease_path.read_text()) | {"note": text, "host": text}
    with spoil_file(lease_path, json.dumps(content).encode(), "", forged=False):
        for command in ("status table1", "failures table1", "plan table1 --scale demo --runs"):
            found = "".join(run_command(root, command))
            assert text.splitlines()[0].replace("\x1b", "\\x1b").replace("\x07", "\\x07") in found
    path = root / "results" / TREES / traversal.TREES
    arrays = dict(np.load(path))
    arrays["names"] = np.full(arrays["names"].shape, text)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with spoil_file(path, buffer.getvalue(), "", forged=True):
        run_command(root, f"figure3_left --scale demo --seeds 1 --out {root}")
        svg = (root / "figures/demo/figure3_left.svg").read_text()
        assert "<script" not in svg
        assert not [sign for sign in EVIL if sign in svg]
    path = root / "results" / FID / results.RESULT
    result = json.loads(path.read_text())
    result["provenance"]["reference"]["extractor"] = text
    with spoil_file(path, json.dumps(result).encode(), "", forged=False):
        assert results.outcome(root / "results", RUNS[FID][1]).state == "damaged"
