"""`repro verify`: a digit changed in any kind of file is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from repro import cli, paper, results
from repro.core import plan
from repro.render.item import render
from repro.verify import verify

ROOT = Path(__file__).parents[1]
SHOWN = {"search_augmentation": 1, "figure4": 3}  # item at proxy scale -> seeds


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two items at proxy scale: runs with curves, predictions and maps; a table and a figure."""
    home = tmp_path_factory.mktemp("home")
    for name, seeds in SHOWN.items():
        experiment = paper.current().get(name)
        for run in plan.runs(experiment.cells, "proxy", seeds):
            if (ROOT / "results" / run.id).is_dir():
                shutil.copytree(ROOT / "results" / run.id, home / "results" / run.id)
        for path, content in render(experiment, "proxy", home / "results", seeds).files.items():
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            results.write(home / path, content)
    return home


@pytest.fixture
def home(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "home")


def places(home: Path, items: Sequence[str] = tuple(SHOWN)) -> list[str]:
    """Where something differs, relative to the folder."""
    found = verify(home / "results", home, items, workers=1)
    return [str(Path(each.place).relative_to(home)) for each in found.differences]


def a_run(home: Path, *, files: str) -> Path:
    """The first folder of a run with such a file."""
    return min((home / "results").glob(f"*/{files}")).parent


def change_digit(path: Path, after: bytes = b"") -> None:
    """Change the first digit of a file after some text, to another."""
    content = bytearray(path.read_bytes())
    start = content.index(after) + len(after)
    place = next(i for i in range(start, len(content)) if content[i] in b"0123456789")
    content[place] = ord("1") if content[place] != ord("1") else ord("2")
    path.write_bytes(content)


def test_what_was_rendered_agrees(home: Path) -> None:
    found = verify(home / "results", home, [*SHOWN], workers=2)
    assert found.differences == ()
    assert found.num_runs > 15
    assert found.num_files == 3 + 4
    assert verify(home / "results", home, ["figure4"], workers=1).num_runs < found.num_runs


FLIPS: dict[str, tuple[Callable[[Path], Path], bytes, str]] = {
    "Markdown": (lambda h: h / "tables/proxy/search_augmentation.md", b"NesT", "tables/"),
    "LaTeX": (lambda h: h / "tables/proxy/figure4.tex", b"tabular", "tables/"),
    "CSV": (lambda h: h / "tables/proxy/figure4.csv", b"done", "tables/"),
    "a digest in a CSV": (lambda h: h / "tables/proxy/figure4.csv", b"fp32,,", "tables/"),
    "figure": (lambda h: h / "figures/proxy/figure4.svg", b"<path", "figures/"),
    "spec": (lambda h: a_run(h, files="predictions.npz") / "spec.json", b'"seed": ', "results/"),
    "default in a spec": (
        lambda h: a_run(h, files="metrics.jsonl") / "spec.json", b'"mixup_alpha": ', "results/",
    ),
    "accuracy": (
        lambda h: a_run(h, files="metrics.jsonl") / "result.json", b'"top1": ', "results/",
    ),
    "metric that nothing recounts": (
        lambda h: a_run(h, files="maps.npz") / "result.json", b'"insertion": ', "tables/",
    ),
    "duration": (
        lambda h: a_run(h, files="metrics.jsonl") / "result.json", b'"seconds": ', "tables/",
    ),
    "duration of a classifier that is explained": (
        lambda h: next((h / "results").glob("nest-small*")) / "result.json", b'"seconds": ',
        "tables/",
    ),
    "digest": (
        lambda h: a_run(h, files="maps.npz") / "result.json", b'"maps.npz": "', "results/",
    ),
    "digest of weights": (
        lambda h: a_run(h, files="metrics.jsonl") / "result.json", b"weights.safetensors", "tables/"
    ),
    "curve": (lambda h: a_run(h, files="metrics.jsonl") / "metrics.jsonl", b"loss", "results/"),
    "prediction": (
        lambda h: a_run(h, files="predictions.npz") / "predictions.npz", b"label", "results/",
    ),
    "map": (lambda h: a_run(h, files="maps.npz") / "maps.npz", b"", "results/"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FLIPS)
def test_a_changed_digit_is_found_and_named(home: Path, kind: str) -> None:
    place, after, expected = FLIPS[kind]
    path = place(home)
    change_digit(path, after)
    found = places(home)
    assert any(each.startswith(expected) for each in found), found
    if expected == "results/":
        assert any(each.startswith(f"results/{path.parent.name}") for each in found)
    elif path.is_relative_to(home / expected):
        assert any(each.startswith(str(path.relative_to(home))) for each in found)


@pytest.mark.parametrize("path", ["tables/proxy/figure4.md", "figures/proxy/figure4.svg"])
def test_a_missing_file_is_named(home: Path, path: str) -> None:
    (home / path).unlink()
    assert path in places(home)


@pytest.mark.parametrize("path", ["tables/extra.md", "figures/proxy/table1.svg", "tables/a/b.csv"])
def test_a_file_of_no_item_is_named(home: Path, path: str) -> None:
    (home / path).parent.mkdir(exist_ok=True)
    (home / path).write_text("1\n")
    assert path in places(home, ())
    assert places(home) == []


@pytest.mark.parametrize("path", ["results/notes.txt", "results/a/b.txt"])
def test_a_file_of_no_run_is_named(home: Path, path: str) -> None:
    (home / path).parent.mkdir(exist_ok=True)
    (home / path).write_text("1\n")
    assert "/".join(path.split("/")[:2]) in places(home, ())
    assert places(home) == []


@pytest.mark.parametrize("name", ["predictions.csv", "samples/extra.png"])
def test_a_file_without_a_digest_is_named(home: Path, name: str) -> None:
    path = a_run(home, files="metrics.jsonl")
    for known in ("log.txt", "log-1.txt", "lease-1.json", "checkpoints/step1.pt", "x.0f.tmp", name):
        (path / known).parent.mkdir(exist_ok=True)
        (path / known).write_text("1\n")
    assert [place for place in places(home, ()) if "/checkpoints/" in place or name in place] == [
        f"results/{path.name}/{name}"
    ]


def test_an_item_with_runs_must_have_its_files(home: Path) -> None:
    """Figure 3, right, has runs of Figure 4, and was not rendered; Figure 4 is removed."""
    for path in [*home.glob("*/proxy/figure4.*")]:
        path.unlink()
    found = places(home, ())
    for name in ("figure3_right", "figure4"):
        assert {f"tables/proxy/{name}.{ending}" for ending in ("md", "tex", "csv")} <= set(found)
    assert not [place for place in found if "table2" in place]


def test_a_changed_training_is_named_where_it_counts(home: Path) -> None:
    """Its digest is a part of the digests of the runs that start from it."""
    attribution = a_run(home, files="maps.npz")
    training = results.stored_run(attribution).starts_from
    assert training
    path = home / "results" / training.id / results.RESULT
    path.write_text(path.read_text().replace('"torch": "', '"torch": "9'))
    rows = [each for each in verify(home / "results", home, ["figure4"], workers=1).differences
            if ".csv:" in each.place]  # fmt: skip
    assert rows
    assert all("or of a run that it starts from, is not the one" in each.what for each in rows)
    shutil.rmtree(path.parent)
    found = verify(home / "results", home, ["figure4"], workers=1).differences
    assert Path(found[0].place).name == training.id
    assert found[0].what.startswith("it is missing, and ")


def test_a_run_under_another_name_is_named(home: Path) -> None:
    run = a_run(home, files="predictions.npz")
    run.rename(run.with_name("other"))
    assert "results/other/spec.json" in places(home, ())


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


def test_the_command_ends_with_3_and_a_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "figure4"]) == 0
    assert capsys.readouterr().out.endswith(" files: all agree\n")
    change_digit(here / "tables/proxy/figure4.md", b"|")
    assert cli.main(["verify", "search_augmentation"]) == 0
    capsys.readouterr()
    assert cli.main(["verify", "figure4"]) == 3
    line, summary = capsys.readouterr().out.splitlines()
    assert line.startswith("tables/proxy/figure4.md:")
    assert "where the runs give" in line
    assert summary.endswith("1 differ")
    assert cli.main(["verify", "figure4", "--json"]) == 3
    (row,) = json.loads(capsys.readouterr().out)["differences"]
    assert row["place"].startswith("tables/proxy/figure4.md:")
    assert cli.main(["verify", "figure4", "--scale", "proxy"]) == 3
    capsys.readouterr()
    nothing = (["--results", "none"], ["--out", "none", "table2"], ["figure4", "--scale", "paper"])
    for words in (*nothing, ["--scale", "full"]):
        assert cli.main(["verify", *words]) == 2
        found = capsys.readouterr()
        assert (found.out, found.err.count("\n")) == ("", 1)
