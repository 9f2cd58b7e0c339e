"""The results folder: whole files or none, honest states, and nothing overwritten."""

from __future__ import annotations

import hashlib
import json
import math
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from repro import experiments, results, spec
from repro.core import artifacts
from repro.results import Result, ResultsError
from repro.spec import Classification, Model, Profiling, Recipe, SpecError
from tests.finished import ARRAYS, finish, npz

RUN = Classification(
    model=Model.of("nest_tiny_cifar", img_size=32),
    dataset="cifar10",
    recipe=Recipe(epochs=300, batch_size=192, lr=1.875e-4),
)
DONE: Result = {"status": "done", "metrics": {"top1": 71.25, "top5": 99.0, "loss": 1.5}}
DIVERGED: Result = {"status": "diverged", "metrics": {"step": 10}}
OTHER_KIND = Profiling(model=RUN.model, classes=10, image_size=32)
COUNTED: Result = {"status": "done", "metrics": {"parameters": 1, "macs": 1}}


FILES = {
    "metrics.jsonl": b'{"step": 1, "top1": 2.5}\n{"step": 2, "train_loss": null}\n',
    "predictions.npz": npz(label=np.zeros(3, np.uint16)),
    **ARRAYS,
}


def save_result(root: Path, run: Classification = RUN, result: object = DONE) -> Path:
    """A run's folder with a result in it; the path of the result."""
    assert isinstance(result, dict)
    folder = results.begin(root, run)
    results.finish(folder, result)
    return folder / results.RESULT


def tree(root: Path) -> dict[str, bytes]:
    """The content of every file under a folder."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# --- write ---------------------------------------------------------------------------------------


def test_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    results.write(path, "a long first version ± ‡\n")
    results.write(path, b"second\n")
    assert tree(tmp_path) == {"file.txt": b"second\n"}
    results.write(path, "± ‡\n")
    assert path.read_bytes() == "± ‡\n".encode()


def test_a_reader_holds_a_whole_version(tmp_path: Path) -> None:
    """By rename: whoever opened the old file goes on reading the old file."""
    path = tmp_path / "file.txt"
    results.write(path, "old")
    with path.open() as reader:
        results.write(path, "new")
        assert reader.read() == "old"


def test_a_disk_that_fills_up_keeps_what_was_there(tmp_path: Path) -> None:
    """A real failure in the middle of a write: the process may write 4 kB a file, and no more."""
    path = tmp_path / "file.txt"
    results.write(path, "before")
    code = (
        "import sys; from pathlib import Path; from repro import experiments, results\n"
        "try: results.write(Path(sys.argv[1]), 'x' * 100_000)\n"
        "except results.ResultsError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        check=True,
    )
    assert done.stdout == f"cannot write {path}: File too large; what was there is kept\n"
    assert tree(tmp_path) == {"file.txt": b"before"}


@pytest.mark.parametrize("place", ["missing/file.txt", "a-file/file.txt"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "a-file").write_text("kept")
    with pytest.raises(ResultsError, match=rf"^cannot write {tmp_path / place}: \w+") as caught:
        results.write(tmp_path / place, "content")
    assert "\n" not in str(caught.value)
    assert tree(tmp_path) == {"a-file": b"kept"}


def test_a_folder_in_the_file_s_place_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file.txt" / "inside").mkdir(parents=True)
    with pytest.raises(ResultsError, match="Is a directory"):
        results.write(tmp_path / "file.txt", "content")
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("root", ["/proc/results", "/dev/null/results"])
def test_a_results_folder_that_cannot_be_made_is_named(root: str) -> None:
    with pytest.raises(ResultsError, match=rf"cannot write to {root}: .*; choose --results DIR"):
        results.begin(Path(root), RUN)
    assert results.outcome(Path(root), RUN).state == "missing"


# --- outcome -------------------------------------------------------------------------------------


def test_states_of_a_run(tmp_path: Path) -> None:
    assert results.outcome(tmp_path, RUN) == results.Outcome("missing")
    results.folder(tmp_path, RUN).mkdir()
    assert results.outcome(tmp_path, RUN) == results.Outcome("missing")
    folder = results.begin(tmp_path, RUN)
    assert results.outcome(tmp_path, RUN) == results.Outcome("started")
    results.finish(folder, DONE)
    found = results.outcome(tmp_path, RUN)
    sha256 = hashlib.sha256((folder / results.RESULT).read_bytes()).hexdigest()
    assert found == results.Outcome("done", DONE, sha256=sha256)
    other = replace(RUN, seed=1)
    save_result(tmp_path, other, DIVERGED)
    found = results.outcome(tmp_path, other)
    assert (found.state, found.result) == ("diverged", DIVERGED)


DAMAGED = {
    "NaN": '{"status": "done", "metrics": {"top1": NaN}}',
    "infinite": '{"status": "done", "metrics": {"top1": 1e999}}',
    "true": '{"status": "done", "metrics": {"top1": true}}',
    "without end": "[" * 100_000,
    "beyond 100 %": json.dumps(DONE | {"metrics": {"top1": 250}}),
    "below 0": json.dumps(DONE | {"metrics": {"top1": -5}}),
    "beyond any float": json.dumps(DONE | {"metrics": DONE["metrics"] | {"top1": 10**400}}),
    "a huge loss": json.dumps(DONE | {"metrics": DONE["metrics"] | {"loss": 1e308}}),
    "a huge whole number": json.dumps(DONE | {"metrics": DONE["metrics"] | {"other": 10**4000}}),
    "an interval beyond any float": json.dumps(
        DONE | {"metrics": DONE["metrics"] | {"top1_low": -(10**400), "top1_high": 10**400}}
    ),
    "a huge reference": json.dumps(
        DONE
        | {
            "provenance": {
                "reference": {
                    "dataset": "a",
                    "split": "test",
                    "images": 10**400,
                    "image_size": 32,
                    "fingerprint": "0",
                    "extractor": "b",
                    "digest": "0",
                }
            }
        }
    ),
    "an endless device": json.dumps(DONE | {"provenance": {"device": "x" * 5000}}),
    "a device with control characters": json.dumps(DONE | {"provenance": {"device": "x\x1b[2J"}}),
    "an endless status": json.dumps(DONE | {"status": "x" * 5000}),
    "half a parameter": json.dumps(DONE | {"metrics": {"parameters": 1.5}}),
    "outside its interval": json.dumps(
        DONE | {"metrics": {"pointing": 9.0, "pointing_low": 1.0, "pointing_high": 2.0}}
    ),
    "a column's name": json.dumps(DONE | {"metrics": {"seed": 7}}),
    "no provenance": json.dumps(DONE | {"provenance": None}),
    "a list for a commit": json.dumps(DONE | {"provenance": {"commit": ["abc"]}}),
    "an option for a commit": json.dumps(DONE | {"provenance": {"commit": "--output=x"}}),
    "a time without a date": json.dumps(DONE | {"provenance": {"started": "noon"}}),
    "a text for seconds": json.dumps(DONE | {"provenance": {"seconds": "1"}}),
    "markup for a reference": json.dumps(DONE | {"provenance": {"reference": "<script>"}}),
    "a file outside": json.dumps(DONE | {"files": {"../x": "0" * 64}}),
    "truncated": json.dumps(DONE)[:-5],
    "empty": "",
    "not text": "\udcff\udcfe",
    "a list": "[]",
    "a number": "71.25",
    "null": "null",
    "no status": json.dumps({"metrics": {"top1": 1.0}}),
    "wrong status": json.dumps(DONE | {"status": "finished"}),
    "no metrics": json.dumps({"status": "done"}),
    "wrong metrics": json.dumps(DONE | {"metrics": [71.25]}),
    "a text for a number": json.dumps(DONE | {"metrics": {"top1": "71.25"}}),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_result_is_named_skipped_and_kept(tmp_path: Path, content: str) -> None:
    path = save_result(tmp_path)
    path.write_bytes(content.encode(errors="surrogateescape"))
    before = tree(tmp_path)
    found = results.outcome(tmp_path, RUN)
    assert (found.state, found.result) == ("damaged", None)
    assert str(path) in found.note
    assert found.note.endswith(f"; move {path.parent} away and run again")
    assert "\n" not in found.note
    assert len(found.note) - 2 * len(str(path)) < 300
    frame, warnings = results.measurements(tmp_path, [RUN])
    assert (list(frame["status"]), warnings) == ([found.state], [found.note])
    with pytest.raises(ResultsError, match="away and run again"):
        results.begin(tmp_path, RUN)
    with pytest.raises(ResultsError, match="a result is written once"):
        results.finish(path.parent, DONE)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "predictions.npz", "maps.npz", "trees.npz"])
@pytest.mark.parametrize("change", ["cut", "other", "empty", "gone", "a folder", "no digest"])
def test_a_file_that_is_not_the_result_s_is_named(tmp_path: Path, name: str, change: str) -> None:
    """Whichever file, and whatever is wrong with it."""
    folder = results.begin(tmp_path, OTHER_KIND)
    data = FILES[name]
    results.finish(folder, COUNTED, {name: data})
    assert results.outcome(tmp_path, OTHER_KIND).state == "done"
    path = folder / name
    if change == "no digest":
        (folder / results.RESULT).write_text(json.dumps(COUNTED))
    else:
        path.unlink()
    if change in ("cut", "other", "empty"):
        path.write_bytes({"cut": data[:-7], "other": data + b"\n", "empty": b""}[change])
    if change == "a folder":
        path.mkdir()
    found = results.outcome(tmp_path, OTHER_KIND)
    assert found.state == "damaged"
    assert found.note.startswith(f"{path} is damaged (")
    assert found.note.endswith(f"move {folder} away and run again")
    frame, warnings = results.measurements(tmp_path, [OTHER_KIND])
    assert (list(frame["status"]), warnings) == ([found.state], [found.note])


@pytest.mark.parametrize(
    "content",
    [b"{}\n\n", b'{"step": 1', b'{"step": 2}\n{"step": 1}\n', b'{"step": NaN}\n', b"[]\n"],
)
def test_lines_that_are_none_are_named_though_they_have_their_digest(
    tmp_path: Path, content: bytes
) -> None:
    folder = results.begin(tmp_path, RUN)
    (folder / results.METRICS).write_bytes(content)
    results.finish(folder, DONE)
    found = results.outcome(tmp_path, RUN)
    assert found.state == "damaged"
    assert found.note.startswith(f"{folder / results.METRICS} is damaged (")


def test_what_is_not_in_git_may_be_missing(tmp_path: Path) -> None:
    folder = results.begin(tmp_path, RUN)
    (folder / "samples").mkdir()
    files = {results.WEIGHTS: b"weights", "samples/step000000001.png": b"a grid"}
    results.finish(folder, DONE, files)
    assert results.weights(tmp_path, RUN) == folder / results.WEIGHTS
    (folder / results.WEIGHTS).write_bytes(b"weight5")
    with pytest.raises(ResultsError, match=r"weights.safetensors is damaged \(.* digest"):
        results.weights(tmp_path, RUN)
    for name in files:
        (folder / name).unlink()
    assert results.outcome(tmp_path, RUN).state == "done"
    with pytest.raises(ResultsError, match=r"weights\.safetensors is missing"):
        results.weights(tmp_path, RUN)


@pytest.mark.parametrize(("top1", "state"), [(75.0, "done"), (0.75, "damaged")])
def test_a_share_is_not_taken_for_percent(tmp_path: Path, top1: float, state: str) -> None:
    """The predictions are counted again."""
    top5 = np.array([[1, 0], [2, 0], [3, 0], [0, 1]], np.uint16)
    kept = npz(label=np.array([1, 2, 3, 2], np.uint16), top5=top5)
    metrics = {"top1": top1, "top5": 75.0, "loss": 1.0}
    folder = results.begin(tmp_path, RUN)
    results.finish(folder, {"status": "done", "metrics": metrics}, {results.PREDICTIONS: kept})
    found = results.outcome(tmp_path, RUN)
    assert found.state == state
    assert ("its predictions give top1 75, not 0.75" in found.note) == (state == "damaged")


def test_a_folder_s_place_is_taken_by_a_file(tmp_path: Path) -> None:
    (tmp_path / RUN.id).write_text("")
    found = results.outcome(tmp_path, RUN)
    assert found.state == "damaged"
    assert "is no folder; move it away" in found.note


def test_a_number_that_is_none_is_not_written(tmp_path: Path) -> None:
    folder = results.begin(tmp_path, RUN)
    before = tree(tmp_path)
    with pytest.raises(ResultsError, match="a number that is not finite"):
        results.write_metrics(folder, [{"step": 1, "train_loss": math.nan}])
    with pytest.raises(ResultsError, match="a number that is not finite"):
        results.finish(folder, {"status": "done", "metrics": {"top1": math.inf}}, {"a": b"b"})
    assert tree(tmp_path) == before


DEVICES = (
    "NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-40GB MIG 3g.20gb", "NVIDIA H100 80GB HBM3",
    "NVIDIA GeForce RTX 2080 with Max-Q Design", "AMD Instinct MI250X / MI250", "GRID T4-16Q",
    "AMD EPYC 9R14 96-Core Processor", "Intel(R) Xeon(R) CPU @ 2.20GHz", "Intel® Xeon® 8480+",
    "CPU x86_64 AVX512, 1 threads", "Apple M2 (Virtual)", "",
)  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_has_the_name_that_its_driver_gives(tmp_path: Path, device: str) -> None:
    save_result(tmp_path, RUN, DONE | {"provenance": {"device": device}})
    assert results.outcome(tmp_path, RUN).state == "done"


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"top1": 250}, "top1: 250 is not within 0 to 100"),
        ({"top1": 10**400}, "top1: 1e+400 is not within 0 to 100"),
        ({"parameters": 1.5}, "parameters: 1.5 is not a whole number"),
        ({"other": 1e308}, "other: 1e+308 is not within -1e+39 to 1e+39"),
        ({"other_low": -(10**400)}, "other_low: -1e+400 is not within -1e+39 to 1e+39"),
        ({"seed": 1}, "'seed' is no name of a metric"),
    ],
)
def test_what_is_wrong_with_a_metric_is_said_shortly(
    tmp_path: Path, metrics: dict[str, float], message: str
) -> None:
    save_result(tmp_path, RUN, DONE | {"metrics": DONE["metrics"] | metrics})
    assert f" is damaged ({message}); move " in results.outcome(tmp_path, RUN).note


def test_a_damaged_spec_is_named_and_kept(tmp_path: Path) -> None:
    path = save_result(tmp_path).with_name(results.SPEC)
    path.write_text(path.read_text()[:50])
    before = tree(tmp_path)
    assert results.outcome(tmp_path, RUN).state == "damaged"
    with pytest.raises(ResultsError, match=str(path)):
        results.begin(tmp_path, RUN)
    assert tree(tmp_path) == before


def test_a_result_without_its_spec_is_not_adopted(tmp_path: Path) -> None:
    """Nobody knows what it was a result of."""
    path = save_result(tmp_path).with_name(results.SPEC)
    path.unlink()
    assert results.outcome(tmp_path, RUN).state == "damaged"
    with pytest.raises(ResultsError, match=str(path)):
        results.begin(tmp_path, RUN)
    assert not path.exists()


# --- begin and finish ----------------------------------------------------------------------------


def test_begin_writes_the_spec_first_and_once(tmp_path: Path) -> None:
    root = tmp_path / "not" / "there" / "yet"
    folder = results.begin(root, RUN)
    assert tree(root) == {f"{RUN.id}/{results.SPEC}": spec.to_json(RUN).encode()}
    assert spec.from_json((folder / results.SPEC).read_text()) == RUN
    inode = (folder / results.SPEC).stat().st_ino
    assert results.begin(root, RUN) == folder
    assert (folder / results.SPEC).stat().st_ino == inode


def test_another_spec_under_the_same_id_is_refused_with_the_field(tmp_path: Path) -> None:
    path = save_result(tmp_path).with_name(results.SPEC)
    stored = json.loads(path.read_text())
    stored["recipe"]["lr"] = 1.0
    path.write_text(json.dumps(stored))
    before = tree(tmp_path)
    with pytest.raises(SpecError, match=r"recipe\.lr: 1\.0 stored, 0\.0001875 now.*; give the"):
        results.begin(tmp_path, RUN)
    found = results.outcome(tmp_path, RUN)
    assert (found.state, found.result) == ("stale", None)
    assert str(path.parent) in found.note
    frame, warnings = results.measurements(tmp_path, [RUN])
    assert (list(frame["status"]), warnings) == ([found.state], [found.note])
    assert tree(tmp_path) == before


def test_a_result_is_written_once(tmp_path: Path) -> None:
    path = save_result(tmp_path)
    before = path.read_bytes()
    assert json.loads(before) == DONE
    with pytest.raises(ResultsError, match=rf"{path} exists already"):
        results.finish(path.parent, DIVERGED)
    assert path.read_bytes() == before


# --- metrics and frame ---------------------------------------------------------------------------


def test_metrics_come_back(tmp_path: Path) -> None:
    assert results.read_metrics(tmp_path) == []
    lines: list[artifacts.Line] = [
        {"epoch": 1, "train_loss": 2.3},
        {"epoch": 2, "train_loss": None},
    ]
    results.write_metrics(tmp_path, lines[:1])
    results.write_metrics(tmp_path, lines)
    assert results.read_metrics(tmp_path) == lines
    assert (tmp_path / results.METRICS).read_text().count("\n") == 2


def test_the_frame_has_a_row_a_result(tmp_path: Path) -> None:
    runs = spec.with_seeds(RUN, 5)
    assert all(isinstance(run, Classification) for run in runs)
    results.finish(results.begin(tmp_path, runs[0]), DONE)
    results.finish(results.begin(tmp_path, runs[2]), DIVERGED)
    results.begin(tmp_path, runs[3])
    frame, warnings = results.measurements(tmp_path, runs)
    assert warnings == []
    assert list(frame["run"]) == [runs[0].id, runs[2].id]
    assert list(frame["seed"]) == [0, 2]
    assert list(frame["status"]) == ["done", "diverged"]
    assert frame["top1"][0] == 71.25
    empty, warnings = results.measurements(tmp_path / "nowhere", runs)
    assert (len(empty), warnings) == (0, [])
    assert {"run", "seed", "status"} <= set(empty.columns)


def test_the_frame_at_a_share_of_the_training(tmp_path: Path) -> None:
    """A point of a curve is the line of metrics after that share of the steps."""
    folder = results.begin(tmp_path, RUN)
    results.write_metrics(folder, [{"step": 5, "top1": 20.0}, {"step": 10, "top1": 30.0}])
    results.finish(folder, DONE)
    for at, top1 in ((0.5, 20.0), (1.0, 71.25)):
        frame, _ = results.measurements(tmp_path, [RUN], at)
        assert list(frame["top1"]) == [top1]
    frame, _ = results.measurements(tmp_path, [RUN], 0.2)  # where nothing was measured
    assert "top1" not in frame.dropna(axis=1)


# --- the tidy frame ------------------------------------------------------------------------------


def test_a_tidy_frame_has_a_row_a_cell_and_seed(tmp_path: Path) -> None:
    cells = experiments.get("table1").cells
    nest = next(c.run for c in cells if (c.row, c.column) == ("NesT-T", "C10"))
    for seed, run in enumerate(spec.with_seeds(nest, 4)):
        finish(tmp_path, run, {"top1": 96.0 + seed})
    table = results.frame("table1", root=tmp_path)
    assert len(table) == len(cells) * 4  # as many seeds as there are of one of them
    rows = table[(table.method == "NesT-T") & (table.dataset == "cifar10")]
    assert list(rows.seed) == [0, 1, 2, 3]
    assert list(rows.top1) == [96.0, 97.0, 98.0, 99.0]
    assert set(rows.status) == {"done"}
    assert isinstance(nest, Classification)
    assert set(rows["recipe.lr"]) == {nest.recipe.lr}
    assert set(rows.item) == {"table1"}
    others = table[table.method != "NesT-T"]
    assert set(others.status) == {"missing"}
    assert others.top1.isna().all()
    assert set(table["recipe.optimizer"]) == {"adamw", "sgd"}
    assert len(results.frame("table1", seeds=1, root=tmp_path)) == len(cells)


def test_a_tidy_frame_has_the_points_of_a_curve(tmp_path: Path) -> None:
    cells = experiments.get("figure5_left").cells
    first, last = cells[0], next(c for c in cells if c.training_fraction == 1)
    assert first.training_fraction < 1
    finish(tmp_path, last.run, {"fid": 30.0})
    table = results.frame("figure5_left", seeds=1, root=tmp_path)
    assert len(table) == len(cells)
    rows = table[table.run == last.run.id].set_index("training_fraction")
    assert rows.fid[1.0] == 30.0
    assert len(rows) == sum(cell.run == last.run for cell in cells)


def test_a_tidy_frame_of_several_items_and_of_none(tmp_path: Path) -> None:
    both = results.frame(["table1", "figure5_right"], "smoke", root=tmp_path)
    assert list(dict.fromkeys(both.item)) == ["table1", "figure5_right"]
    assert {"method", "seed", "status"} <= set(both.columns)
    empty = results.frame("table2", "proxy", root=tmp_path)
    assert len(empty) == 0
    assert {"item", "method", "seed", "status"} <= set(empty.columns)
    with pytest.raises(KeyError):
        results.frame("tabel1", root=tmp_path)


# --- metrics that are recounted from predictions -------------------------------------------------

RECOUNTED = {
    "cam-nest-*-local-textured-s0-*": (
        "gt_known", "gt_known_iou30", "max_box_acc", "max_box_acc_v2", "top1",
        "top1_error", "top1_error_oracle",
    ),
    "ceiling-*": ("ceiling_gt_known", "ceiling_max_box_acc_v2"),
    "gradcat-ascent-input-*-local-plain-s0-*": ("quadrant", "leaf", "leaf_most", "undecided"),
    "nest-tiny-cifar-cifar10-*": ("top1", "top5"),
}  # fmt: skip


@pytest.mark.parametrize("pattern", RECOUNTED)
def test_metrics_are_recounted_from_predictions(pattern: str, tmp_path: Path) -> None:
    source = min((Path(__file__).parents[1] / "results").glob(pattern))
    path = shutil.copytree(source, tmp_path / source.name)
    run = results.stored_run(path)
    assert results.outcome(tmp_path, run).state == "done"
    stored = json.loads((path / results.RESULT).read_text())
    for name in RECOUNTED[pattern]:
        value = stored["metrics"][name]
        other = value + (0.5 if value < 50 else -0.5)
        changed = {**stored, "metrics": {**stored["metrics"], name: other}}
        (path / results.RESULT).write_text(json.dumps(changed))
        outcome = results.outcome(tmp_path, run)
        assert outcome.state == "damaged"
        assert f"its predictions give {name} " in outcome.note
    garbage = npz(a=np.zeros(3))
    (path / results.PREDICTIONS).write_bytes(garbage)
    stored["files"][results.PREDICTIONS] = hashlib.sha256(garbage).hexdigest()
    (path / results.RESULT).write_text(json.dumps(stored))
    assert results.outcome(tmp_path, run).state == "damaged"
