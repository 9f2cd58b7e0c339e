"""Which results the code of today may measure differently: digests of source, data, waivers."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from repro import cli, results
from repro.core import source
from repro.core.source import SourceError
from repro.outdated import accept, check, current_source, read_waivers
from repro.results import WAIVERS
from repro.spec import Run

ROOT = Path(__file__).parents[1]
TASK = "repro.tasks.one"
Capture = pytest.CaptureFixture[str]

BEFORE = '''"""What it does."""

import os


class Net:
    """A net."""

    def forward(self, x: int) -> int:
        """The value."""
        return x + 1  # one more
'''
SAME = {
    "comments": BEFORE.replace("# one more", "# and one"),
    "docstrings": BEFORE.replace('"""A net."""', '"""A network of neurons."""'),
    "no docstring": BEFORE.replace('    """A net."""\n', ""),
    "format": BEFORE.replace("x + 1 ", "(\n            x\n            + 1\n        )"),
    "line ends": BEFORE.replace("\n", "\r\n"),
}
OTHER = {
    "a number": BEFORE.replace("x + 1", "x + 2"),
    "its type": BEFORE.replace("x + 1", "x + 1.0"),
    "a sign": BEFORE.replace("x + 1", "x - 1"),
    "a text": BEFORE.replace("x + 1", 'x + int("1")'),
    "an import": BEFORE.replace("import os", "import sys"),
    "a default": BEFORE.replace("x: int", "x: int = 0"),
}


def digest(text: str) -> str:
    return source.task_digests({TASK: text.encode()}, TASK)[TASK]


@pytest.mark.parametrize("change", SAME)
def test_comments_and_format_do_not_count(change: str) -> None:
    assert SAME[change] != BEFORE
    assert digest(SAME[change]) == digest(BEFORE)


@pytest.mark.parametrize("change", OTHER)
def test_what_is_executed_counts(change: str) -> None:
    assert OTHER[change] != BEFORE
    assert digest(OTHER[change]) != digest(BEFORE)


def test_a_task_depends_on_what_it_imports() -> None:
    tree = {
        "repro": b"",
        "repro.a": b"",
        "repro.a.b": b"def f():\n    from repro.c import g\n",
        "repro.c": b"",
        "repro.d": b"",
        "repro.e": b"",
        TASK: b"from typing import TYPE_CHECKING\nfrom repro.a import b\n"
        b"if TYPE_CHECKING:\n    import repro.d\nelse:\n    import repro.e\n",
    }
    assert set(source.task_digests(tree, TASK)) == set(tree) - {"repro.d"}
    with pytest.raises(SourceError, match=r"there is no module repro\.x"):
        source.task_digests(tree, "repro.x")
    with pytest.raises(SourceError, match=r"repro\.c cannot be parsed"):
        source.task_digests({**tree, "repro.c": b"def"}, TASK)


def test_a_task_depends_on_its_models_and_not_on_drawing() -> None:
    found = source.task_digests(source.installed(), "repro.tasks.classification")
    assert {"repro.models.nest", "repro.train.optim", "repro.data.augment.ops"} <= set(found)
    assert not [name for name in found if name.startswith(("repro.render", "repro.commands"))]


def test_a_commit_has_its_own_source() -> None:
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True,
                          text=True, check=True).stdout.strip()  # fmt: skip
    assert "repro.models.nest" in source.at_commit(head)
    for wrong in ("", "0" * 40, "--help", "HEAD; ls"):
        with pytest.raises(SourceError):
            source.at_commit(wrong)


# --- results -------------------------------------------------------------------------------------

RUNS = [
    results.stored_run(path)
    for path in sorted((ROOT / "results").glob("deit-tiny-*-cifar10-validation-2ep-*"))
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two finished runs, by the code of today."""
    for run in RUNS[:2]:
        shutil.copytree(ROOT / "results" / run.id, tmp_path / run.id)
        change(tmp_path, run, source=current_source(run))
    return tmp_path


def change(root: Path, run: Run, **facts: str | None) -> None:
    """Change facts of a result's provenance; None: take them out."""
    path = root / run.id / results.RESULT
    result = json.loads(path.read_text())
    merged = result["provenance"] | facts
    result["provenance"] = {name: value for name, value in merged.items() if value is not None}
    path.write_text(json.dumps(result))


def outdate(root: Path, run: Run) -> None:
    """Make a result one of other code, of which the launch kept a snapshot."""
    package = root / results.SNAPSHOTS / "c0de" / source.NAME
    shutil.copytree(source.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    with (package / "core/run.py").open("a") as file:
        file.write("\nANOTHER = 1\n")
    change(root, run, source=None, code="c0de")


def test_a_result_of_todays_code_is_current(root: Path) -> None:
    assert [(each.state, each.changed) for each in check(root, RUNS[:2])] == [("current", ())] * 2


def test_changed_modules_are_named(root: Path) -> None:
    """By the snapshot of the launch."""
    outdate(root, RUNS[0])
    first, second = check(root, RUNS[:2])
    assert (first.state, first.changed) == ("outdated", ("repro.core.run",))
    assert second.state == "current"


def test_other_images_of_the_same_dataset_are_noticed(root: Path) -> None:
    change(root, RUNS[0], started="2020-01-01T00:00:00Z", test_fingerprint="0" * 16)
    first, second = check(root, RUNS[:2])
    assert (first.state, first.changed) == (
        "outdated",
        ("data: test images of cifar10 validation",),
    )
    assert second.state == "current"


@pytest.mark.parametrize("commit", ["", "0" * 12, "0123456789ab+"])
def test_code_that_nobody_has_is_unknown(root: Path, commit: str) -> None:
    change(root, RUNS[0], source=None, commit=commit)
    first, _ = check(root, RUNS[:2])
    assert first.state == "unknown"
    assert first.why
    change(root, RUNS[0], source="0" * 16)
    first, _ = check(root, RUNS[:2])
    assert (first.state, first.changed) == ("outdated", ("source, in modules not known",))


def test_a_snapshot_of_a_launch_tells_the_modules(root: Path) -> None:
    change(root, RUNS[0], source="0" * 16, commit="0123456789ab+", code="abc")
    package = root / "submissions" / "code" / "abc" / "repro"
    shutil.copytree(ROOT / "repro", package, ignore=shutil.ignore_patterns("__pycache__"))
    optim = package / "train" / "optim.py"
    optim.write_text(optim.read_text() + "\nCHANGED = True\n")
    first, _ = check(root, RUNS[:2])
    assert first.changed == ("repro.train.optim",)


def test_a_waiver_holds_for_one_state_of_the_source(root: Path) -> None:
    change(root, RUNS[0], source="0" * 16)
    assert accept(root, RUNS[:2], "only names changed") == 1
    first, second = check(root, RUNS[:2])
    assert (first.state, first.waiver) == ("outdated", "only names changed")
    assert second.waiver == ""
    (waiver,) = read_waivers(root)
    assert waiver["runs"] == [RUNS[0].id]
    assert waiver["source"] == current_source(RUNS[0])
    path = root / WAIVERS
    path.write_text(path.read_text().replace(waiver["source"], "f" * 16))
    assert check(root, RUNS[:1])[0].waiver == ""


@pytest.mark.parametrize("text", ["{", '{"runs": []}\n', '{"runs": [1]}', "\x00", "[]\n"])
def test_a_damaged_file_of_waivers_is_one_line(root: Path, text: str) -> None:
    (root / WAIVERS).write_text(text)
    with pytest.raises(results.ResultsError, match=r"waivers.jsonl is damaged .*; restore it"):
        read_waivers(root)


def test_a_damaged_spec_is_a_warning(root: Path, capsys: Capture) -> None:
    (root / RUNS[0].id / results.SPEC).write_text("{")
    assert cli.main(["outdated", "--results", str(root)]) == 0
    out, err = capsys.readouterr()
    assert out == "1 run: 1 current, 0 outdated, 0 unknown; 0 accepted\n"
    assert f"{RUNS[0].id}/spec.json is damaged" in err
    assert err.count("\n") == 1


def test_the_commands(root: Path, capsys: Capture) -> None:
    outdate(root, RUNS[0])
    words = ["--results", str(root)]
    assert cli.main(["outdated", *words]) == 0
    first, summary = capsys.readouterr().out.splitlines()
    assert first == f"{RUNS[0].id}: outdated (repro.core.run)"
    assert summary == "2 runs: 1 current, 1 outdated, 0 unknown; 0 accepted"
    assert cli.main(["accept", RUNS[0].id, "--because", "only names changed", *words]) == 0
    assert capsys.readouterr().out.startswith("1 of 1 runs were not current; ")
    assert cli.main(["outdated", "search_rates", "--scale", "proxy", "--json", *words]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert sorted(row["state"] for row in rows) == ["current", "outdated"]
    assert "only names changed" in {row["waiver"] for row in rows}
    for wrong in (["accept", "--because", "x"], ["accept", RUNS[0].id, "--because", "a\nb"],
                  ["accept", RUNS[0].id], ["outdated", "nothing"]):  # fmt: skip
        assert cli.main([*wrong, *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1
