"""Training and testing on photographs: killed, divided, fine-tuned, and from released weights."""

from __future__ import annotations

import io
import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models.nest import Nest
from torch import Tensor, nn

from repro import results
from repro.data import datasets, prepare
from repro.data.hub import WeightsNotFound
from repro.execution import ExecutionOptions
from repro.experiments.scales import at_scale
from repro.experiments.table2 import RELEASES, release_of, released
from repro.experiments.table3 import METHODS as FINE_TUNED
from repro.launch.attempt import FAILED, last_lines, log_path
from repro.launch.job import execute
from repro.models.released import load_pretrained, load_released, zero_head
from repro.models.released import read_released as fetch
from repro.spec import Classification, Evaluation, Model, Recipe
from repro.tasks import classification
from repro.tasks.classification import NO_CLASS, create
from repro.train.distributed import Ranks
from tests.tasks.test_classification import FP32, JOB, RANKS, assert_alike, outputs, spec_file

NEST = Model.of(
    "nest_tiny_imagenet", img_size=64, patch_size=8, embed_dims=(24, 48, 96), depths=(1, 1, 1),
    num_heads=(1, 2, 4),
)  # fmt: skip
SWIN = Model.of("swin_tiny_patch4_window7_224", embed_dim=24, depths=(1, 1, 1, 1),
                num_heads=(1, 2, 4, 8))  # fmt: skip
RECIPE = Recipe(
    epochs=3,
    batch_size=8,
    lr=1e-3,
    warmup_epochs=0.5,
    warmup_lr=1e-5,
    final_lr=1e-5,
    clip_norm=1.0,
    weight_decay=0.05,
    no_decay=("pos_embed",),
    drop_path=0.2,
    image_size=64,
    crop_area=(0.05, 1.0),
    crop_resize="aliased",
    crop_rule="tensorflow",
    flip=True,
    randaugment_layers=2,
    color_jitter=0.3,
    erase_prob=0.25,
    mixup_alpha=0.8,
    cutmix=True,
    label_smoothing=0.1,
)
RUN = Classification(
    model=NEST,
    dataset="imagenet-smoke",
    recipe=RECIPE,
    evaluation=Evaluation(image_size=64, resize="aliased", crop_rule="tensorflow"),
)
TIMM = replace(RUN, recipe=replace(RECIPE, augmentation="timm", repeats=3, crop_resize="bicubic",
                                   crop_rule="torchvision"))  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke sets, as files in the formats of the real ones."""
    root = tmp_path_factory.mktemp("data")
    for name in ("imagenet-smoke", "imagenet22k-smoke"):
        prepare.prepare(name, root)
    return root


def job(root: Path, run: Classification, data: Path, *more: str) -> list[str]:
    return [*JOB, spec_file(root, run), "--data", str(data), *more]


@pytest.mark.parametrize("run", [RUN, TIMM], ids=["authors", "timm"])
def test_killed_it_ends_the_same(tmp_path: Path, data: Path, run: Classification) -> None:
    """SIGKILL a process that has workers, again and again; every byte is the undisturbed run's."""
    subprocess.run(job(tmp_path / "one", run, data), check=True, env=FP32)
    folder, moments = results.folder(tmp_path / "two", run), random.Random(3)
    command = job(tmp_path / "two", run, data, "--checkpoint-seconds", "0")
    for _ in range(3):
        process = subprocess.Popen(command, env=FP32)
        before = checkpoints(folder)
        while process.poll() is None and checkpoints(folder) == before:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    assert not (folder / results.RESULT).exists()
    subprocess.run(command, check=True, env=FP32)
    assert outputs(tmp_path / "two", run) == outputs(tmp_path / "one", run)


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("step*.pt"))


@pytest.mark.parametrize("run", [RUN, TIMM], ids=["authors", "timm"])
def test_two_processes_and_micro_batches_are_one(
    tmp_path: Path, data: Path, run: Classification, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same global batch over gloo, and in pieces of two; the sums differ in their order."""
    monkeypatch.setattr("repro.train.device.has_bf16", lambda _: False)
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = [spec_file(tmp_path / "two", run), "--data", str(data)]
    subprocess.run([*torchrun, str(script), *arguments], check=True, env=FP32)
    execute(run, tmp_path / "one", ExecutionOptions(data))
    execute(run, tmp_path / "pieces", ExecutionOptions(data, micro_batch=2))
    weights = [load_file(results.folder(tmp_path / name, run) / results.WEIGHTS)
               for name in ("one", "two", "pieces")]  # fmt: skip
    assert_alike(weights[1], weights[0])
    assert_alike(weights[2], weights[0])


def test_formats_train_alike(tmp_path: Path, data: Path) -> None:
    """A tar a class is the tree it was made of."""
    from repro.data.imagenet.smoke_photos import make_tar

    tree = data / "imagenet-smoke"
    for part in ("train", "val"):
        for folder in (tree / part).iterdir():
            files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
            tar = tmp_path / "imagenet-smoke" / part / f"{folder.name}.tar"
            tar.parent.mkdir(parents=True, exist_ok=True)
            tar.write_bytes(make_tar(files))
    execute(RUN, tmp_path / "tree", ExecutionOptions(data))
    execute(RUN, tmp_path / "tars", ExecutionOptions(tmp_path))
    assert outputs(tmp_path / "tars", RUN) == outputs(tmp_path / "tree", RUN)


def test_crops_train_as_well(tmp_path: Path) -> None:
    """The fast form: other pixels, the same path; and whoever decodes, on a CPU, is the CPU."""
    prepare.prepare("imagenet-smoke-256px", tmp_path)
    crops = replace(RUN, dataset="imagenet-smoke-256px")
    assert execute(crops, tmp_path / "out", ExecutionOptions(tmp_path)) == "done"
    assert execute(RUN, tmp_path / "out", ExecutionOptions(tmp_path)) == "done"
    assert execute(RUN, tmp_path / "nvjpeg", ExecutionOptions(tmp_path, decode="nvjpeg")) == "done"
    assert outputs(tmp_path / "nvjpeg", RUN) == outputs(tmp_path / "out", RUN)
    assert outputs(tmp_path / "out", crops)[1] != outputs(tmp_path / "out", RUN)[1]


def test_an_unreadable_test_image_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare.prepare("imagenet-smoke", tmp_path)
    test = datasets.load("imagenet-smoke", "test", tmp_path)
    assert not isinstance(test, datasets.Images)
    net = create(NEST, 10, 0.0, seed=0)
    path = sorted((tmp_path / "imagenet-smoke" / "val").rglob("*.JPEG"))[3]
    path.write_bytes(bytes(len(path.read_bytes())))
    monkeypatch.setattr(classification, "MAX_UNREADABLE_SHARE", 0.1)  # one of twenty
    one = Ranks(0, 1, torch.device("cpu"))
    with pytest.warns(UserWarning, match="counted as wrong"):
        metrics, predictions = classification.evaluate(net, test, RUN.evaluation, one)
    assert metrics["unreadable"] == 1
    assert predictions["top5"][3].tolist() == [NO_CLASS] * 5
    assert (predictions["top5"] == NO_CLASS).sum() == 5


def test_repeated_augmentation() -> None:
    """DeiT's: an epoch is as long, of a third of the images, each three times, with keys of its
    own; and never twice beside the same partner."""
    size, batch = 64 * 9, 64
    parts = [classification.global_batch(s, batch, size, seed=0, repeats=3) for s in range(9)]
    indices, epochs = (torch.cat(part) for part in zip(*parts, strict=True))
    assert len(indices) == size
    assert len(indices.unique()) == size // 3
    assert {tuple(pair) for pair in torch.stack([indices, epochs], 1).tolist()} == {
        (i, e) for i in indices.unique().tolist() for e in range(3)
    }
    pairs = [tuple(sorted(pair)) for pair in indices.view(-1, 2).tolist()]
    assert max(pairs.count(pair) for pair in pairs) <= 2
    plain = classification.global_batch(5, batch, size, seed=0)
    once = classification.global_batch(5, batch, size, seed=0, repeats=1)
    assert torch.equal(plain[0], once[0])
    assert torch.equal(plain[1], once[1])


# --- weights of others ---------------------------------------------------------------------------


def test_released_weights_are_tested(tmp_path: Path, data: Path) -> None:
    """As users without a network do it: a file in a folder. The numbers are timm's own model's."""
    tag, test, _ = RELEASES["Swin-T"]
    theirs = create(SWIN, 10, 0.0, seed=5).eval()
    save_file(theirs.state_dict(), tmp_path / f"{tag}.safetensors")
    run = replace(released(SWIN, tag, test), dataset="imagenet-smoke")
    assert execute(run, tmp_path / "out", ExecutionOptions(data, weights=tmp_path)) == "done"
    result = results.outcome(tmp_path / "out", run).result
    assert result is not None
    assert result["provenance"]["precision"] == "fp32"
    loss = result["metrics"]["loss"]
    images = datasets.load("imagenet-smoke", "test", data)
    config = {"input_size": (3, 224, 224), "interpolation": "bicubic", "crop_pct": 0.9}
    transform = timm.data.create_transform(**config, mean=images.mean, std=images.std)
    assert loss == pytest.approx(_loss(theirs, transform, images), abs=2e-3)


def _loss(net: torch.nn.Module, transform: object, images: object) -> float:
    losses = []
    for index in range(len(images)):  # type: ignore[arg-type]
        data = images.read(index)  # type: ignore[attr-defined]
        pixels = transform(Image.open(io.BytesIO(data)).convert("RGB"))  # type: ignore[operator]
        with torch.no_grad():
            logits = net(pixels[None])
        label = images.labels[index : index + 1]  # type: ignore[attr-defined]
        losses.append(float(torch.nn.functional.cross_entropy(logits, label)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), "has NaN or infinite weights: head.fc.weight; fetch https://"),
        (3e38, "the logits of 20 of 20 test images are not finite"),
    ],
)
def test_released_weights_that_are_not_finite_fail_in_one_line(
    tmp_path: Path, data: Path, value: float, words: str
) -> None:
    tag, test, _ = RELEASES["Swin-T"]
    state = create(SWIN, 10, 0.0, seed=5).state_dict()
    state["head.fc.weight"].fill_(value)
    save_file(state, tmp_path / f"{tag}.safetensors")
    run = replace(released(SWIN, tag, test), dataset="imagenet-smoke")
    attempt = (
        "import sys; from pathlib import Path; from repro import results\n"
        "from repro.launch import attempt, job; root, run, data, weights = sys.argv[1:]\n"
        "run = results.stored_run(Path(root, run))\n"
        "how = job.ExecutionOptions(Path(data), weights=Path(weights))\n"
        "sys.exit(attempt.run_attempt(run, Path(root), how))"
    )
    folder = results.begin(tmp_path / "out", run)
    command = [sys.executable, "-c", attempt, str(folder.parent), run.id, str(data), str(tmp_path)]
    assert subprocess.run(command, env=FP32, check=False).returncode == FAILED
    (line,) = last_lines(log_path(folder))
    assert words in line
    assert not (folder / results.RESULT).exists()


def test_missing_weights_are_named(tmp_path: Path, data: Path) -> None:
    with pytest.raises(
        WeightsNotFound, match=r"nest_tiny_jx.goog_in1k.safetensors is missing: put http"
    ):
        fetch("nest_tiny_jx.goog_in1k", tmp_path)
    (tmp_path / "nest_tiny_jx.goog_in1k.safetensors").write_bytes(b"no tensors")
    with pytest.raises(WeightsNotFound, match="not a safetensors file"):
        fetch("nest_tiny_jx.goog_in1k", tmp_path)
    with pytest.raises(WeightsNotFound, match="timm has no weights 'nest_huge'"):
        fetch("nest_huge", tmp_path)


def test_without_a_network_it_is_said_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        WeightsNotFound, match=r"put https://huggingface.co/timm/nest_tiny_jx.*--weights"
    ):
        fetch("nest_tiny_jx.goog_in1k")


def test_the_hub_s_cache_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As another program has left it: no network is asked."""
    snapshot = tmp_path / "models--timm--nest_tiny_jx.goog_in1k" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    save_file({"w": torch.arange(3.0)}, snapshot / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch("nest_tiny_jx.goog_in1k")["w"].tolist() == [0, 1, 2]


def port(by_timm: bool, **options: Any) -> nn.Module:
    """timm's port of NesT, or the same with the authors' GELU; of weights for which that counts."""
    torch.manual_seed(0)
    gelu = partial(nn.GELU, approximate="none" if by_timm else "tanh")
    net: nn.Module = Nest(act_layer=gelu, pad_type="same", **options)
    for parameter in net.parameters():
        if parameter.ndim > 1:  # the norms stay what they are
            nn.init.normal_(parameter, std=0.15)
    net.eval()
    return net


@pytest.mark.parametrize("by_timm", [True, False], ids=["timm", "authors"])
def test_nest_takes_timm_s_weights(tmp_path: Path, by_timm: bool) -> None:
    """The model of either test, with the released weights, computes what that port computes."""
    sizes = {"embed_dims": (96, 192, 384), "num_heads": (3, 6, 12), "depths": (2, 2, 8)}
    theirs, other = (port(kind, **sizes) for kind in (by_timm, not by_timm))
    save_file(theirs.state_dict(), tmp_path / "nest_tiny_jx.goog_in1k.safetensors")
    run = release_of("NesT-T", by_timm=by_timm)
    ours = create(run.model, 1000, 0.0, seed=0).eval()
    load_released(ours, fetch(run.release, tmp_path))
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        found, expected, wrong = ours(images), theirs(images), other(images)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    assert (wrong - expected).abs().max() > 100 * (found - expected).abs().max()


def test_a_released_nest_is_tested_as_its_authors_do(tmp_path: Path, data: Path) -> None:
    """The loss of the whole test against one that is written down here: images as fractions,
    bilinear without antialias, the shorter side 8/7 of the crop, the centre rounded down."""
    sizes = dict(NEST.updated(img_size=32, patch_size=4, embed_dims=(32, 64, 128)).options)
    theirs = port(by_timm=False, num_levels=3, num_classes=10, **sizes)
    run = release_of("NesT-T")
    assert run.evaluation == Evaluation(image_size=224, resize="aliased", crop_rule="tensorflow")
    save_file(theirs.state_dict(), tmp_path / f"{run.release}.safetensors")
    run = replace(run, model=Model.of(NEST.name, **sizes), dataset="imagenet-smoke",
                  evaluation=replace(run.evaluation, image_size=32))  # fmt: skip
    assert execute(run, tmp_path / "out", ExecutionOptions(data, weights=tmp_path)) == "done"
    result = results.outcome(tmp_path / "out", run).result
    assert result is not None
    images = datasets.load("imagenet-smoke", "test", data)
    mean, std = (torch.tensor(of).view(3, 1, 1) for of in (images.mean, images.std))

    def transform(picture: Image.Image) -> Tensor:
        fractions = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
        height, width = (round(36 * side / min(picture.size)) for side in picture.size[::-1])
        small = F.interpolate(fractions[None], (height, width), mode="bilinear")[0]
        top, left = (height - 32) // 2, (width - 32) // 2
        return (small[:, top : top + 32, left : left + 32] - mean) / std

    expected = _loss(theirs, transform, images)
    assert result["metrics"]["loss"] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("method", [name for name, *_ in FINE_TUNED])
def test_a_new_head_of_zeros(method: str) -> None:
    run = next(run for name, run, *_ in FINE_TUNED if name == method)
    assert run.recipe.zero_head
    assert isinstance(run.pretrained, Classification)
    assert not run.pretrained.recipe.zero_head
    net = create(run.model, 10, 0.0, seed=2)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    zero_head(net)
    changed = {n for n, tensor in net.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed == {n for n in before if n.startswith("head.") and n.endswith("weight")}
    assert all(not net.state_dict()[n].any() for n in before if n.startswith("head."))


def test_a_training_begins_at_a_head_of_zeros(tmp_path: Path, data: Path) -> None:
    """With a rate of nought, the head stays what it was at the beginning."""
    still = replace(RECIPE, epochs=1, lr=0.0, warmup_lr=0.0, final_lr=0.0, weight_decay=0.0)
    for zeroed in (True, False):
        run = replace(RUN, recipe=replace(still, zero_head=zeroed), test_split="none")
        assert execute(run, tmp_path, ExecutionOptions(data)) == "done"
        weights = load_file(results.folder(tmp_path, run) / results.WEIGHTS)
        assert bool(weights["head.weight"].any()) != zeroed
        assert weights["pos_embed.0"].any()


def test_a_model_without_a_named_classifier_cannot_begin_at_zero() -> None:
    with pytest.raises(ValueError, match="Identity has no classifier"):
        zero_head(nn.Identity())


@pytest.mark.parametrize("method", [name for name, *_ in FINE_TUNED])
def test_fine_tuning_resizes_and_makes_a_new_head(method: str) -> None:
    """From 224 px and the classes of ImageNet-22K to 384 px and other classes."""
    run = next(run for name, run, *_ in FINE_TUNED if name == method)
    assert isinstance(run.pretrained, Classification)
    before = create(run.pretrained.model, 12, 0.0, seed=1)
    after = create(run.model, 10, 0.0, seed=2)
    fresh = {name: tensor.clone() for name, tensor in after.state_dict().items()}
    load_pretrained(after, before.state_dict())
    trained, now = before.state_dict(), after.state_dict()
    head = {name for name in now if name.startswith("head.")}
    assert head
    assert all(torch.equal(now[name], fresh[name]) for name in head)
    resized = {n for n in now if n in trained and now[n].shape != trained[n].shape} - head
    assert resized
    assert all("pos_embed" in n or "relative_position" in n for n in resized)
    same = [
        n for n in now if n in trained and n not in head | resized and now[n].is_floating_point()
    ]
    assert same
    assert all(torch.equal(now[name], trained[name]) for name in same)


def test_windows_are_resized_in_place() -> None:
    """A table of relative positions that is linear in them stays so, on the finer grid."""
    before = create(SWIN, 10, 0.0, seed=1)
    after = create(SWIN.updated(img_size=384, window_size=12), 10, 0.0, seed=2)
    state = before.state_dict()
    table = "layers.1.blocks.0.attn.relative_position_bias_table"
    rows = torch.linspace(-1, 1, 13).repeat_interleave(13)
    state[table] = torch.stack([rows, torch.linspace(-1, 1, 13).repeat(13)], dim=1)
    load_pretrained(after, state)
    found = after.state_dict()[table].T.view(2, 23, 23)
    steps = found[0, 4:-4].diff(dim=0), found[1, :, 4:-4].diff(dim=1)  # but for the border
    for step in steps:
        torch.testing.assert_close(step, torch.full_like(step, 2 / 12 * 13 / 23), rtol=0.2, atol=0)
    assert found[0].std(dim=1).max() < 1e-6
    assert found[1].std(dim=0).max() < 1e-6


def test_weights_of_another_model_are_refused() -> None:
    net = create(NEST, 10, 0.0, seed=0)
    state = net.state_dict()
    with pytest.raises(ValueError, match="gone belongs to another model"):
        load_pretrained(net, {**state, "gone": torch.zeros(1)})
    del state["norm.weight"]
    with pytest.raises(ValueError, match=r"norm\.weight is missing"):
        load_pretrained(net, state)
    with pytest.raises(ValueError, match=r"head\.weight has shape"):
        load_pretrained(net, create(NEST, 12, 0.0, seed=0).state_dict(), keep_head=False)


def test_pretrained_and_fine_tuned_in_small(tmp_path: Path, data: Path) -> None:
    """Table 3's path, from tars of ImageNet-22K's kind without a test to another head and size."""
    parent = replace(RUN, dataset="imagenet22k-smoke", test_split="none", evaluation=None)
    child = replace(
        RUN,
        model=NEST.updated(img_size=128),
        recipe=replace(RECIPE, image_size=128),
        evaluation=Evaluation(image_size=128, crop_fraction=0.0),
        pretrained=parent,
    )
    execute(parent, tmp_path, ExecutionOptions(data))
    result = json.loads((results.folder(tmp_path, parent) / results.RESULT).read_text())
    assert result["metrics"].keys() == {"train_loss"}
    assert not (results.folder(tmp_path, parent) / results.PREDICTIONS).exists()
    assert execute(child, tmp_path, ExecutionOptions(data)) == "done"
    assert at_scale(child, "paper") is child
