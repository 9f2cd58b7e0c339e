"""The adversarial loop: resumed is uninterrupted, ranks and micro-batches are one, bad ends."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from repro import fidelity, results, spec
from repro.cli import main
from repro.data.images import DataError
from repro.execution import ExecutionOptions
from repro.launch.job import _Job, execute
from repro.spec import AdversarialRecipe, Classification, Generation, Model, Recipe, Run
from repro.tasks import Interrupted, NotFinite, generation
from tests.train.spawned import in_processes

FEATURES = Classification(
    model=Model.of("wrn28_10", depth=10, widen=0.25),
    dataset="fashion-mnist-6k",
    recipe=Recipe(epochs=1, batch_size=100, lr=0.01),
    train_split="validation",
    test_split="validation",
)
RECIPE = AdversarialRecipe(
    steps=12,
    batch_size=8,
    lr=1e-3,
    discriminator_lr=1e-3,
    r1_weight=10.0,
    flip=True,
    ema_decay=0.5,
    ema_start=2,
    evaluate_every_steps=6,
)
RUN = Generation(
    generator=Model.of(
        "transposed_nest_64", img_size=32, latent_dim=16, embed_dims=(32, 16, 16),
        depths=(1, 1, 1), num_heads=(1, 1, 1),
    ),
    discriminator=Model.of("hit_discriminator_64", img_size=32, widths=(8, 8, 16, 16)),
    dataset="fashion-mnist-6k",
    recipe=RECIPE,
    samples=60,
    features=FEATURES,
)  # fmt: skip
CONVNET = replace(
    RUN,
    generator=Model.of("sagan_decoder_64", img_size=32, latent_dim=16, widths=(16, 16, 8, 8)),
    discriminator=Model.of("sagan_discriminator_64", img_size=32, widths=(8, 16, 16)),
    recipe=replace(RECIPE, loss="hinge", r1_weight=0.0, steps=4, evaluate_every_steps=0),
)
JOB = [sys.executable, "-m", "repro.launch.job"]
FP32 = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with the classifier that the runs are measured by."""
    root = tmp_path_factory.mktemp("features")
    assert execute(FEATURES, root, ExecutionOptions(root / "data")) == "done"
    return root


@pytest.fixture
def root(features: Path, tmp_path: Path) -> Path:
    shutil.copytree(features / FEATURES.id, tmp_path / FEATURES.id)
    return tmp_path


def command(root: Path, run: Run) -> list[str]:
    return [*JOB, str(results.begin(root, run) / results.SPEC), "--data", str(root / "data")]


def outputs(root: Path, run: Run) -> list[bytes]:
    """Everything a run computed."""
    folder = results.folder(root, run)
    metrics = json.loads((folder / results.RESULT).read_text())["metrics"]
    names = (results.METRICS, results.WEIGHTS, "samples.png", "interpolation.png")
    pictures = sorted(folder.glob("samples/*.png"))
    files = [folder / name for name in names] + pictures
    assert len(pictures) == 2
    return [json.dumps(metrics).encode(), *(path.read_bytes() for path in files)]


def test_killed_at_random_moments_it_ends_the_same(root: Path, features: Path) -> None:
    """SIGKILL a real process again and again: G, D, their average, both optimisers and pictures."""
    undisturbed = root / "undisturbed"
    shutil.copytree(features, undisturbed)
    subprocess.run(command(undisturbed, RUN), check=True, env=FP32)
    folder, moments, kills = results.folder(root, RUN), random.Random(7), 0
    while not (folder / results.RESULT).exists():
        process = subprocess.Popen([*command(root, RUN), "--checkpoint-seconds", "0"], env=FP32)
        if kills < 3:
            before = steps_saved(folder)
            while steps_saved(folder) == before and process.poll() is None:
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert outputs(root, RUN) == outputs(undisturbed, RUN)


def steps_saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("step*.pt"))


@pytest.mark.parametrize("run", [RUN, CONVNET], ids=["hit", "sagan"])
def test_micro_batches_and_ranks_are_one(root: Path, run: Generation) -> None:
    """Three processes, and micro-batches of three, beside one process and one batch; of the
    convnet's run one process has no image.

    BatchNorm's statistics are those of a micro-batch, so a transformer stands for the convnet. The
    losses are compared, which three steps of both have changed: Adam makes of the rounding of a
    gradient that is nearly zero a whole step of a weight.
    """
    generator = Model.of("transgan_64", img_size=32, latent_dim=16, embed_dims=(32, 8),
                         depths=(1, 1), num_heads=1)  # fmt: skip
    batch_size = 8 if run is RUN else 2
    recipe = replace(run.recipe, steps=3, batch_size=batch_size, evaluate_every_steps=0)
    run = replace(run, generator=generator, recipe=recipe)
    losses = []
    for number, (ranks, micro_batch) in enumerate([(1, None), (1, 3), (3, None)]):
        place = root / str(number)
        shutil.copytree(root / FEATURES.id, place / FEATURES.id)
        how = ExecutionOptions(root / "data", attempt="a", micro_batch=micro_batch)
        assert in_processes(ranks, execute, run, place, how) == ["done"] * ranks
        (line,) = results.read_metrics(results.folder(place, run))
        losses.append([line[name] for name in generation.LOSSES])
    assert losses[1] == pytest.approx(losses[0], rel=0.01, abs=1e-6)
    assert losses[2] == pytest.approx(losses[0], rel=0.01, abs=1e-6)


@pytest.mark.parametrize("ranks", [2, 3, 12])
def test_ranks_measure_as_one(root: Path, ranks: int) -> None:
    """To the last bit, reference included. The weights stay as they are, since ranks add up
    gradients in another order than one does; of twelve ranks some have no image to measure."""
    generator = Model.of("transgan_64", img_size=32, latent_dim=16, embed_dims=(32, 8),
                         depths=(1, 1), num_heads=1)  # fmt: skip
    recipe = replace(
        CONVNET.recipe, steps=1, lr=0.0, discriminator_lr=0.0, batch_size=12, ema_start=0
    )
    run = replace(CONVNET, generator=generator, recipe=recipe, samples=430)
    metrics = []
    for count in (1, ranks):
        place = root / str(count)
        shutil.copytree(root / FEATURES.id, place / FEATURES.id)
        how = ExecutionOptions(root / f"data{count}", attempt="a")  # the reference is kept there
        assert in_processes(count, execute, run, place, how) == ["done"] * count
        result = results.outcome(place, run).result
        assert result is not None
        losses = ("discriminator_loss", "generator_loss", "r1")
        found = {name: v for name, v in result["metrics"].items() if name not in losses}
        metrics.append(found)
    assert metrics[0] == metrics[1]
    assert metrics[0]["proxy_frechet"] > 0
    kept = [(root / f"data{n}" / "statistics").glob("*") for n in (1, ranks)]
    assert len({path.read_bytes() for paths in kept for path in paths}) == 1


def test_a_run_is_measured_by_what_it_names(root: Path) -> None:
    """By a classifier: under names of their own, with the reference beside them."""
    assert execute(CONVNET, root, ExecutionOptions(root / "data")) == "done"
    result = results.outcome(root, CONVNET).result
    assert result is not None
    names = set(result["metrics"])
    assert {"proxy_frechet", "proxy_score", "proxy_kid", "proxy_precision"} <= names
    assert not names & {"fid", "inception_score", "kid"}
    assert result["provenance"]["reference"]["dataset"] == "fashion-mnist-6k"
    assert FEATURES.id in json.dumps(result["provenance"]["reference"])
    with Image.open(results.folder(root, CONVNET) / "samples.png") as grid:
        assert grid.size[0] >= 8 * 32


def test_drawn_from_a_finished_run_by_the_command(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`repro sample` draws what the run's own grid begins with, and says what it cannot draw."""
    assert execute(CONVNET, root, ExecutionOptions(root / "data")) == "done"
    words = ["sample", CONVNET.id, "--results", str(root), "--n", "9"]
    assert main([*words, "--out", str(root / "nine.png")]) == 0
    folder = results.folder(root, CONVNET)
    with Image.open(root / "nine.png") as nine, Image.open(folder / "samples.png") as grid:
        first = (0, 0, 32, 32)
        assert nine.size == (3 * 32 + 4, 3 * 32 + 4)
        difference = np.abs(np.asarray(nine.convert("RGB").crop(first), int)
                            - np.asarray(grid.convert("RGB").crop(first), int))  # fmt: skip
    assert difference.max() <= 1  # of batches of other sizes
    assert main([*words, "--seed", "1", "--out", str(root / "other.png")]) == 0
    assert (root / "nine.png").read_bytes() != (root / "other.png").read_bytes()
    assert main(["sample", FEATURES.id, "--results", str(root)]) == 2
    (folder / results.WEIGHTS).unlink()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"{FEATURES.id} is not a generator run" in error
    assert "weights.safetensors is missing" in error


# --- the parts -----------------------------------------------------------------------------------


class Linear(nn.Module):
    """A discriminator whose gradient at any image is its weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(12))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weight[:, None]


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_losses_in_closed_form(loss: Literal["logistic", "hinge"]) -> None:
    net = Linear()
    real, fake = torch.randn(2, 5, 3, 2, 2)
    recipe = replace(RECIPE, loss=loss)
    found = generation.adversarial_losses(net, real, fake, recipe, torch.device("cpu"))
    x, y = (t.flatten(1) @ net.weight for t in (real, fake))
    if loss == "hinge":
        d, g = (1 - x).clamp(min=0) + (1 + y).clamp(min=0), -y
    else:
        d, g = -x.sigmoid().log() - (1 - y.sigmoid()).log(), -y.sigmoid().log()
    torch.testing.assert_close(found["discriminator_loss"], d)
    torch.testing.assert_close(found["generator_loss"], g)
    torch.testing.assert_close(found["r1"], net.weight.square().sum().expand(5))
    found["r1"].sum().backward()
    assert net.weight.grad is not None
    torch.testing.assert_close(net.weight.grad, 2 * 5 * net.weight.detach())


def test_the_average_follows_the_weights_and_the_statistics() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = copy.deepcopy(net)
    before = copy.deepcopy(average.state_dict())
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1)
        net.get_buffer("1.running_mean").fill_(4)
        net.get_buffer("1.num_batches_tracked").fill_(7)
    generation.update_ema(average, net, 0.75)
    after = average.state_dict()
    torch.testing.assert_close(after["0.weight"], before["0.weight"] + 0.25)
    torch.testing.assert_close(after["1.running_mean"], torch.full((2,), 1.0))
    assert after["1.num_batches_tracked"] == 7
    generation.update_ema(average, net, 0.0)
    assert all(
        torch.equal(a, b) for a, b in zip(average.parameters(), net.parameters(), strict=True)
    )


def test_a_sample_is_a_function_of_its_number() -> None:
    """However many are drawn together, and of nothing but weights, seed and number."""
    net, cpu = generation.create(RUN.generator, 0), torch.device("cpu")
    together = generation.concatenate(generation.samples(net, 5, 7, cpu))
    assert together.dtype == torch.uint8
    alone = generation.sample(net, 5, [3], cpu)
    assert (together[3].int() - alone[0].int()).abs().max() <= 1
    assert not torch.equal(together[3], generation.sample(net, 6, [3], cpu)[0])


# --- bad ends ------------------------------------------------------------------------------------


def test_not_a_number_ends_as_diverged_with_a_picture(root: Path) -> None:
    run = replace(RUN, recipe=replace(RECIPE, lr=1e18, discriminator_lr=1e18, steps=20))
    assert execute(run, root, ExecutionOptions(root / "data")) == "diverged"
    result = results.outcome(root, run).result
    assert result is not None
    assert result["provenance"]["why"] == "not a number"
    assert result["provenance"]["speed"] == "fast"
    data = (results.folder(root, run) / "samples.png").read_bytes()
    assert Image.open(BytesIO(data)).size[0] >= 8 * 32


@pytest.mark.parametrize(
    ("statistic", "value", "why"),
    [
        ("running_mean", float("nan"), "not finite: "),
        ("running_var", -1e6, "the generator's images are not finite"),  # each weight is finite
        ("running_var", 1.0, "not finite: proxy_kid"),
    ],
)
def test_what_is_drawn_or_measured_is_finite_or_the_run_has_diverged(
    root: Path, monkeypatch: pytest.MonkeyPatch, statistic: str, value: float, why: str
) -> None:
    """At an evaluation midway. The losses are finite, since training normalises by the batch."""
    create, compare = generation.create, fidelity.compare

    def created(model: Model, seed: int, number: int = 0) -> nn.Module:
        net = create(model, seed, number)
        for name, buffer in net.named_buffers():
            if name.endswith(statistic):
                buffer.fill_(value)
        return net

    monkeypatch.setattr(generation, "create", created)
    if "proxy_kid" in why:
        monkeypatch.setattr(
            fidelity, "compare", lambda *a, **o: compare(*a, **o) | {"proxy_kid": float("nan")}
        )
    run = replace(CONVNET, recipe=replace(CONVNET.recipe, evaluate_every_steps=2))
    assert execute(run, root, ExecutionOptions(root / "data")) == "diverged"
    result, folder = results.outcome(root, run).result, results.folder(root, run)
    assert result is not None
    assert result["metrics"] == {"step": 2}
    assert result["provenance"]["why"].startswith(why)
    with Image.open(folder / "samples.png") as samples:
        assert samples.size[0] >= 8 * 32
    assert not (folder / results.WEIGHTS).exists()
    assert not results.read_metrics(folder)


def test_a_picture_that_is_not_finite_is_not_drawn() -> None:
    net = generation.create(CONVNET.generator, 0)
    with pytest.raises(NotFinite, match="images are not finite"):
        generation.generate(net, torch.full((2, 16), torch.nan))


def test_a_generator_that_collapses_ends_as_diverged(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All images alike: here because its latents no longer reach them."""
    create = generation.create

    def dull(model: Model, seed: int, number: int = 0) -> nn.Module:
        net = create(model, seed, number)
        if number == 0:
            net.get_parameter("latent_embed.weight").data.zero_()
        return net

    monkeypatch.setattr(generation, "create", dull)
    recipe = replace(RECIPE, lr=0.0, steps=2, evaluate_every_steps=0)
    assert execute(replace(RUN, recipe=recipe), root, ExecutionOptions(root / "data")) == "diverged"
    result = results.outcome(root, replace(RUN, recipe=recipe)).result
    assert result is not None
    assert result["provenance"]["why"] == "collapsed"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": 10}, "17"),  # sixteen features
        ({"generator": Model.of("transposed_nest_64", img_size=64, latent_dim=8)}, "64 px"),
        ({"dataset": "imagenet-smoke"}, "imagenet-smoke-64px"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(
    root: Path, change: dict[str, object], words: str
) -> None:
    if change.get("dataset"):
        from repro.data.prepare import prepare

        prepare("imagenet-smoke", root / "data")
    run = replace(RUN, **change)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=words):
        execute(run, root, ExecutionOptions(root / "data"))
    assert not results.read_metrics(results.folder(root, run))


def test_the_spec_is_read_as_it_was_written() -> None:
    assert spec.from_json(spec.to_json(RUN)) == RUN
    assert np.isfinite(RUN.recipe.lr)


@pytest.mark.parametrize("run", [replace(FEATURES, seed=1), CONVNET], ids=["classifier", "gan"])
def test_a_result_names_the_ways_in_which_it_was_begun(
    run: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once, and none for being interrupted alone."""
    plain = ExecutionOptions(root / "data", speed="plain")
    other = ExecutionOptions(root / "data", micro_batch=2)
    for place, ways in (("same", [plain] * 3), ("other", [plain, plain, other])):
        shutil.copytree(root / FEATURES.id, root / place / FEATURES.id)
        with monkeypatch.context() as patch:
            patch.setattr(_Job, "should_stop", lambda job: True)
            for way in ways:
                with pytest.raises(Interrupted):
                    execute(run, root / place, way)
        assert execute(run, root / place, ways[0]) == "done"
        result = results.outcome(root / place, run).result
        assert result is not None
        earlier = result["provenance"].get("earlier", [])
        assert result["provenance"]["speed"] == "plain"
        assert [(way["speed"], way["micro_batch"]) for way in earlier] == (
            [("fast", 2)] if place == "other" else []
        )
