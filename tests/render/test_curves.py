"""Training curves: what is read, drawn and exported, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from repro import cli, experiments, results
from repro.core import curve_export, curves
from repro.core.scales import runs_at_scale
from repro.launch import state
from repro.render import curves as figures
from repro.render import curves_text, page
from repro.results import ResultsError
from repro.spec import Classification, Profiling, Run, Traversal
from tests import finished
from tests.command_line import Capture, error_of, stdout_of

ROOT = Path(__file__).parents[2]
RUNS = [Classification.narrow(run) for _, run in runs_at_scale(experiments.get("table1").cells,
                                                               "demo")]  # fmt: skip
RUN, OTHER = RUNS[0], RUNS[1]
LOSSES = ((4.0, 2.0, 1.0), (5.0, 2.5, 0.5), (3.0, 3.0, 3.0))  # by seed and epoch


def line(epoch: int, loss: float) -> bytes:
    values = {"epoch": epoch, "step": 10 * epoch, "lr": 0.1 / epoch, "train_loss": loss}
    return json.dumps(values).encode() + b"\n"


def write(root: Path, run: Run, losses: Sequence[float], *, is_done: bool = True) -> Path:
    """A run whose epochs had these losses; if it is done, with a top-1 accuracy of 60 + seed."""
    data = b"".join(line(epoch, loss) for epoch, loss in enumerate(losses, start=1))
    if is_done:
        right = 60 + run.seed  # of 100 images of class 0
        top5 = [[0, 1, 2, 3, 4]] * right + [[1, 2, 3, 4, 5]] * (100 - right)
        given = {"top1": 60.0 + run.seed, "top5": 60.0 + run.seed, "loss": 1.0}
        kept = {
            results.METRICS: data,
            results.PREDICTIONS: finished.npz(label=[0] * 100, top5=top5),
        }
        return finished.finish(root, run, given, extra_files=kept)
    folder = results.begin(root, run)
    (folder / results.METRICS).write_bytes(data)
    return folder


@pytest.fixture
def seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Three finished seeds in results/ of the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")  # no SLURM
    runs = [replace(RUN, seed=seed) for seed in range(3)]
    for run, losses in zip(runs, LOSSES, strict=True):
        write(Path("results"), run, losses)
    return list(runs)


# --- what is read --------------------------------------------------------------------------------


def test_a_band_is_the_mean_and_the_extremes_of_the_seeds(seeds: list[Run]) -> None:
    (curve,) = curves.of_runs(Path("results"), seeds)
    band = curves.band(curve, "train_loss", "epoch")
    assert (band.x, band.seeds) == ((1, 2, 3), (3, 3, 3))
    assert band.mean == (4.0, 2.5, 1.5)
    assert (band.low, band.high) == ((3.0, 2.0, 0.5), (5.0, 3.0, 3.0))
    final = curves.band(curve, "top1", "step")
    assert (final.x, final.mean, final.low, final.high) == ((30,), (61,), (60,), (62,))


def test_a_mean_is_over_the_seeds_that_have_come_so_far(tmp_path: Path) -> None:
    write(tmp_path, RUN, [4.0, 2.0])
    write(tmp_path, replace(RUN, seed=1), [2.0], is_done=False)
    (curve,) = curves.of_runs(tmp_path, [RUN, replace(RUN, seed=1), replace(RUN, seed=2)])
    band = curves.band(curve, "train_loss", "epoch")
    assert (band.mean, band.seeds) == ((3.0, 2.0), (2, 1))
    note = curves.state_note([curve])
    assert "Not finished: 1 of 2 trainings" in note
    assert "No metrics yet: 1 of 3 trainings" in note


def test_a_growing_file_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    folder = write(tmp_path, RUN, [4.0, 2.0], is_done=False)
    path, third = folder / results.METRICS, line(3, 1.0)
    whole = path.read_bytes()
    for cut in range(len(third)):
        path.write_bytes(whole + third[:cut])
        assert len(curves.read(tmp_path, RUN).lines) == 2
    path.write_bytes(whole + third)
    assert [each["train_loss"] for each in curves.read(tmp_path, RUN).lines] == [4.0, 2.0, 1.0]


@pytest.mark.parametrize("bad", [b"{\n", b'{"step": "x"}\n', b'{"epoch": 1}\n', line(1, 4.0)])
def test_a_damaged_file_is_refused(tmp_path: Path, bad: bytes) -> None:
    folder = write(tmp_path, RUN, [4.0, 2.0], is_done=False)
    with (folder / results.METRICS).open("ab") as file:
        file.write(bad + line(3, 1.0))
    with pytest.raises(ResultsError, match=r"metrics\.jsonl is damaged .*; move .* away"):
        curves.read(tmp_path, RUN)


def test_without_epochs_the_axis_counts_steps(tmp_path: Path) -> None:
    folder = results.begin(tmp_path, RUN)
    (folder / results.METRICS).write_text('{"step": 5, "train_loss": 1.0}\n')
    found = curves.of_runs(tmp_path, [RUN])
    assert curves.axis(found) == "step"
    assert curves.metrics(found) == curves.main_metrics(found) == ["train_loss"]


def test_an_item_that_tests_models_has_the_curves_of_their_trainings() -> None:
    item = experiments.get("figure3_right")
    found = curves.of_item(ROOT / "results", item, "proxy", 2)
    assert [curve.label for curve in found] == [
        "resnet50", "deit-small-patch16-224", "nest-small-imagenet"
    ]  # fmt: skip
    assert [[t.run.seed for t in curve.trainings] for curve in found] == [[0, 1]] * 3
    assert curves.main_metrics(found) == ["train_loss", "lr", "top1"]
    assert curves.axis(found) == "epoch"


def test_labels_are_what_differs(tmp_path: Path) -> None:
    found = curves.of_item(tmp_path, experiments.get("table1"), "demo", 1)
    labels = [curve.label for curve in found]
    assert len(labels) == len(set(labels)) == len(RUNS)
    assert "NesT-T, Glyphs-100" in labels
    faster = replace(RUN, recipe=replace(RUN.recipe, lr=0.5))
    slow, fast = curves.short_names([RUN, faster]).values()
    assert (slow, fast) == (f"lr {RUN.recipe.lr:g}", "lr 0.5")
    assert list(curves.short_names([RUN, OTHER]).values()) == ["fashion-mnist-6k", "glyphs"]
    assert curves.common_name([RUN, OTHER]) == "pyramidnet164-48-…-4ep"
    assert curves.common_name([RUN]) == RUN.slug.removesuffix("-s0")


# --- what is drawn -------------------------------------------------------------------------------


def test_the_bytes_of_a_figure_follow_from_the_runs(seeds: list[Run]) -> None:
    def draw(runs: Sequence[Run]) -> tuple[str, bytes]:
        found = curves.of_runs(Path("results"), runs)
        drawn = figures.draw(found, curves.main_metrics(found), "Curves")
        return page.svg(drawn, "Curves"), page.pdf(drawn, "Curves")

    svg, pdf = draw(seeds)
    assert draw(seeds[::-1]) == (svg, pdf)
    for text in ("Curves", "Training loss", "Learning rate", "Top-1 accuracy in percent", ">epoch",
                 "mean over 3 seeds; band or bar: minimum to maximum."):  # fmt: skip
        assert text in svg
    assert pdf.startswith(b"%PDF")


def test_the_lines_of_many_curves_differ() -> None:
    styles = [figures.style(place) for place in range(140)]
    assert len({(str(s["color"]), str(s["linestyle"]), s["marker"]) for s in styles}) == 140


@pytest.mark.parametrize(("width", "unicode"), [(24, True), (24, False), (79, True), (150, False)])
def test_a_plot_in_the_terminal_fits_it(seeds: list[Run], width: int, unicode: bool) -> None:
    write(Path("results"), OTHER, [0.25, 0.125])
    found = curves.of_runs(Path("results"), [*seeds, OTHER])
    lines = curves_text.draw(
        found, ["train_loss"], "Curves", width=width, height=6, unicode=unicode
    )
    assert max(map(len, lines)) <= width
    assert "\n".join(lines).isascii() is not unicode
    for start in ("A 4 → 1.5", "B 0.25 → 0.125"):
        assert any((start if unicode else start.replace("→", "->")) in each for each in lines)
    (top, *_, bottom) = [each for each in lines if "|" in each]
    assert (top.split()[0], bottom.split()[0]) == ("4", "0.125")
    assert top.split("|")[1].startswith("A")


def test_a_plot_of_equal_values_is_a_line(tmp_path: Path) -> None:
    write(tmp_path, RUN, [2.0, 2.0])
    found = curves.of_runs(tmp_path, [RUN])
    lines = curves_text.draw(found, ["train_loss"], "", width=30, height=5, unicode=False)
    assert [each for each in lines if "*" in each] == [
        "       2 |*..................*", f"  * 2 -> 2  {RUN.slug}"[:27] + "..."
    ]  # fmt: skip


# --- the command ---------------------------------------------------------------------------------


def test_the_command_draws_runs_and_items(seeds: list[Run], capsys: Capture) -> None:
    out = stdout_of(capsys, " ".join(["curves", *(run.id for run in seeds)]))
    assert "top-1 accuracy in percent" in out
    assert "4 → 1.5" in out or "4 -> 1.5" in out
    paths = stdout_of(capsys, "curves table1 --scale demo --only Pyramid --out drawn").splitlines()
    assert paths == [f"drawn/curves_table1_demo.{kind}" for kind in ("svg", "pdf", "png")]
    assert Path(paths[-1]).read_bytes().startswith(b"\x89PNG")
    both = stdout_of(capsys, f"curves table1 {RUN.id} --scale demo --metric lr")
    assert both.count("learning rate") == 2


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("curves", "curves of what? Name an item"),
        ("curves tabel1", "no run 'tabel1' in results"),
        ("curves table1", "trainings at paper scale has metrics yet; see `repro status"),
        ("curves table_a1", "table_a1 has no training at paper scale, so no curve"),
        ("curves table1 --scale demo --only Nobody", "no method 'Nobody'"),
        (
            "curves table1 --scale demo --metric top2",
            "no metric 'top2' in these runs; did",
        ),
        ("curves table1 --scale demo --export tsv there", "csv, tensorboard, wandb, not 'tsv'"),
        ("curves table1 --scale demo --export csv", "--export: expected 2 arguments"),
        ("curves table1 --scale demo --export csv results/a/b", "results/a/b: Not a directory"),
        ("curves table1 --scale demo --out x --follow", "not allowed with argument"),
        ("curves RUN --scale demo", "choose runs of an item; take them out"),
        ("curves table1 --results nowhere", "there is no folder nowhere"),
    ],
)
def test_refusals(seeds: list[Run], capsys: Capture, command: str, said: str) -> None:
    Path("results/a").write_text("a file")
    assert said in error_of(capsys, command.replace("RUN", seeds[0].id))


def test_a_run_without_a_curve_is_refused(seeds: list[Run], capsys: Capture) -> None:
    profiling = next(run for _, run in runs_at_scale(experiments.get("table_a1").cells, "paper")
                     if isinstance(run, Profiling))  # fmt: skip
    finished.finish(Path("results"), profiling)
    assert "is not a training, so it has no curve; name a training" in error_of(
        capsys, f"curves {profiling.id}"
    )
    traversal = next(run for _, run in runs_at_scale(experiments.get("figure2").cells, "proxy")
                     if isinstance(run, Traversal))  # fmt: skip
    finished.finish(Path("results"), traversal)
    training = curves.training_of(traversal)
    assert training
    assert f"name its training, {training.id}" in error_of(capsys, f"curves {traversal.id}")
    results.begin(Path("results"), OTHER)
    assert "has no metrics yet; see `repro status`" in error_of(capsys, f"curves {OTHER.id}")
    damaged = results.folder(Path("results"), seeds[0]) / results.METRICS
    damaged.write_bytes(damaged.read_bytes()[:-9])
    error = error_of(capsys, f"curves {seeds[0].id}")
    assert f"{damaged} is damaged" in error
    assert "move" in error


def test_following_ends_with_the_runs(
    seeds: list[Run], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, under_way = results.begin(Path("results"), OTHER), ["queued", "running", "running"]

    def query(root: Path, runs: Sequence[Run]) -> list[state.RunState]:
        return [state.RunState(run, under_way[0] if under_way else "failed") for run in runs]

    def sleep(seconds: float) -> None:
        under_way.pop(0)
        with (folder / results.METRICS).open("ab") as file:
            file.write(line(3 - len(under_way), 1 + len(under_way)))

    monkeypatch.setattr(state, "query", query)
    monkeypatch.setattr("time.sleep", sleep)
    out = stdout_of(capsys, f"curves {OTHER.id} --follow --metric train_loss")
    assert out.count("Training curves of") == 4  # before the first line, and after each
    assert "* 3 -> 1" in out.replace("→", "->").split("Training curves of")[-1]


def test_following_is_interrupted_quietly(
    seeds: list[Run], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(state, "query", lambda root, runs: [state.RunState(runs[0], "running")])
    monkeypatch.setattr("time.sleep", interrupt)
    assert cli.main(["curves", seeds[0].id, "-f"]) == 130
    assert capsys.readouterr().err == "\nrepro: interrupted\n"


# --- export --------------------------------------------------------------------------------------


def test_csv_has_a_row_for_each_run_and_step(seeds: list[Run], capsys: Capture) -> None:
    out = stdout_of(capsys, "curves table1 --scale demo --export csv there")
    assert out == "exported 3 runs to there\n"
    head, *rows = Path("there/curves.csv").read_text().splitlines()
    assert head == "run,seed,step,epoch,lr,train_loss,top1,top5"
    assert len(rows) == 9
    assert rows[0] == f"{seeds[0].id},0,10,1,0.1,4.0,,"
    assert rows[5].endswith(",0.5,61.0,61.0")


def test_tensorboard_reads_the_numbers_back(seeds: list[Run], capsys: Capture) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    line = f"curves {seeds[1].id} --export tensorboard there"
    assert stdout_of(capsys, line) == "exported 1 run to there\n"
    read = EventAccumulator(str(Path("there", seeds[1].id))).Reload()
    assert read.Tags()["scalars"] == ["lr", "train_loss", "top1", "top5"]
    assert [(e.step, e.value) for e in read.Scalars("train_loss")] == [
        (10, 5.0), (20, 2.5), (30, 0.5)
    ]  # fmt: skip
    assert [(e.step, e.value) for e in read.Scalars("top1")] == [(30, 61.0)]
    assert "has event files already; name another folder" in error_of(capsys, line)


@pytest.mark.parametrize("form", ["tensorboard", "wandb"])
def test_an_absent_package_is_named(
    seeds: list[Run], capsys: Capture, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr("repro.commands.curves.find_spec", lambda name: None)
    error = error_of(capsys, f"curves {seeds[0].id} --export {form} there")
    assert error == f"repro: --export {form} needs the package {form}: pip install {form}\n"
    assert not Path("there").exists()
    assert set(curve_export.PACKAGES) == {"csv", "tensorboard", "wandb"}
