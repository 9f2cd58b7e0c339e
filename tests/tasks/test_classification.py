"""The training loop: resumed is uninterrupted, many processes are one, a test counts exactly."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from repro import results
from repro.data import datasets
from repro.execution import ExecutionOptions
from repro.launch import lease
from repro.launch.failures import Failure
from repro.launch.job import _Job, execute
from repro.spec import Classification, Model, Recipe, to_json
from repro.tasks import NotFinite, Result, classification
from repro.train import checkpoint, speed
from repro.train.distributed import Ranks
from tests.train.spawned import in_processes

RECIPE = Recipe(
    epochs=2,
    batch_size=100,
    lr=1e-3,
    warmup_epochs=0.1,
    weight_decay=0.05,
    no_decay=("pos_embed",),
    drop_path=0.2,
    crop_padding=2,
    flip=True,
    randaugment_layers=2,
    erase_prob=0.25,
    mixup_alpha=0.8,
    cutmix=True,
    label_smoothing=0.1,
    evaluate_every_epochs=1,
)
NEST = Model.of(
    "nest_tiny_cifar", patch_size=4, embed_dims=(24, 24), depths=(1, 1), num_heads=(1, 1)
)
RUN = Classification(
    model=NEST,
    dataset="fashion-mnist-6k",
    recipe=RECIPE,
    train_split="validation",  # 1,000 images: two epochs of ten steps
    test_split="validation",
)
JOB = [sys.executable, "-m", "repro.launch.job"]
FP32 = {**os.environ, "OMP_NUM_THREADS": "1"}


def outputs(root: Path, run: Classification) -> tuple[object, ...]:
    """Everything a run computed, as bytes or numbers to compare."""
    folder = results.folder(root, run)
    result = json.loads((folder / results.RESULT).read_text())
    return (
        result["metrics"],
        (folder / results.METRICS).read_bytes(),
        (folder / results.PREDICTIONS).read_bytes(),
        (folder / results.WEIGHTS).read_bytes(),
    )


def spec_file(root: Path, run: Classification) -> str:
    return str(results.begin(root, run) / results.SPEC)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    root = tmp_path_factory.mktemp("undisturbed")
    subprocess.run([*JOB, spec_file(root, RUN)], check=True, env=FP32)
    return outputs(root, RUN)


def test_killed_at_random_moments_it_ends_the_same(
    tmp_path: Path, undisturbed: tuple[object, ...]
) -> None:
    """SIGKILL a real process again and again; every byte is that of the undisturbed run."""
    command = [*JOB, spec_file(tmp_path, RUN), "--checkpoint-seconds", "0"]
    folder, moments, kills = results.folder(tmp_path, RUN), random.Random(7), 0
    while not (folder / results.RESULT).exists():
        process = subprocess.Popen(command, env=FP32)
        if kills < 4:
            before = _checkpoint_count(folder)
            while process.poll() is None and _checkpoint_count(folder) == before:
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.15))  # somewhere in a step, or in a save
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait(timeout=120)
    assert kills == 4
    assert outputs(tmp_path, RUN) == undisturbed


def _checkpoint_count(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "checkpoints").glob("step*.pt"))


def test_a_stop_request_saves_a_checkpoint_to_resume_from(
    tmp_path: Path, undisturbed: tuple[object, ...]
) -> None:
    command = [*JOB, spec_file(tmp_path, RUN), "--checkpoint-seconds", "0"]
    folder = results.folder(tmp_path, RUN)
    process = subprocess.Popen(command, env=FP32, stderr=subprocess.PIPE, text=True)
    while not _checkpoint_count(folder):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "stopped after step" in errors
    subprocess.run(command, check=True, env=FP32)
    assert outputs(tmp_path, RUN) == undisturbed


# A run whose third checkpoint halts in the middle of its file until there is a file `go`.
HALTED = """
import sys, time
from pathlib import Path
from repro.launch import job
from repro.train import checkpoint
here, names, write = Path(sys.argv[1]), [], checkpoint._ChecksumFile.write
def halting(file, data):
    if file.name not in names:
        names.append(file.name)
    if len(names) == 3 and file.tell():
        file.flush()
        (here / "halted").touch()
        while not (here / "go").exists():
            time.sleep(0.01)
    return write(file, data)
checkpoint._ChecksumFile.write = halting
job.main(sys.argv[2:])
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_write(
    tmp_path: Path, undisturbed: tuple[object, ...], number: signal.Signals
) -> None:
    """Killed, it goes on from the checkpoint before; asked to stop, it ends that write and saves
    its last state."""
    folder = results.folder(tmp_path, RUN)
    arguments = [spec_file(tmp_path, RUN), "--checkpoint-seconds", "0"]
    command = [sys.executable, "-c", HALTED, str(tmp_path), *arguments]
    with subprocess.Popen(command, env=FP32, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "halted").exists():
            assert process.poll() is None
            time.sleep(0.01)
        before = checkpoint.newest_step(folder / "checkpoints")
        process.send_signal(number)
        if number == signal.SIGTERM:
            (tmp_path / "go").touch()
        _, errors = process.communicate(timeout=120)
    newest = checkpoint.newest_step(folder / "checkpoints")
    half_written = list((folder / "checkpoints").glob("*.tmp"))
    if number == signal.SIGKILL:
        assert newest == before
        assert len(half_written) == 1
    else:
        assert f"stopped after step {newest} of" in errors
        assert not half_written
    subprocess.run([*JOB, *arguments], check=True, env=FP32)
    assert outputs(tmp_path, RUN) == undisturbed


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is done with a checkpoint only when five more steps are."""
    steps, waited = 0, list[int]()
    enough, fsync, stopping = threading.Condition(), os.fsync, _Job.should_stop

    def counted(job: _Job) -> bool:
        nonlocal steps
        with enough:
            steps += 1
            enough.notify_all()
        return stopping(job)

    def slow(descriptor: int) -> None:
        with enough:
            began = steps
            if began < 10 and threading.current_thread() is not threading.main_thread():
                assert enough.wait_for(lambda: steps >= began + 5, timeout=60)
                waited.append(began)
        fsync(descriptor)

    monkeypatch.setattr(_Job, "should_stop", counted)
    monkeypatch.setattr(os, "fsync", slow)
    assert execute(RUN, tmp_path, ExecutionOptions(checkpoint_seconds=0.0)) == "done"
    assert len(waited) >= 2


def accumulated(
    run: Classification, root: Path, micro_batch: int | None
) -> dict[str, torch.Tensor]:
    """The weights of a run in this process, in fp32 arithmetic."""
    execute(run, root, ExecutionOptions(micro_batch=micro_batch))
    return load_file(results.folder(root, run) / results.WEIGHTS)


def assert_alike(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """Equal up to the order of sums: AdamW turns a rounding error into a share of the step."""
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=5e-5, msg=f"{name}: ".__add__)


@pytest.fixture
def fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare sums in fp32, where their order matters least."""
    monkeypatch.setattr("repro.train.device.has_bf16", lambda _: False)


@pytest.mark.usefixtures("fp32")
@pytest.mark.parametrize("micro_batch", [34, 7])
def test_accumulation_is_the_whole_batch(tmp_path: Path, micro_batch: int) -> None:
    """Mixing partners, drop path and augmentation included."""
    whole = accumulated(RUN, tmp_path / "whole", None)
    assert_alike(accumulated(RUN, tmp_path / "parts", micro_batch), whole)


def test_an_attempt_after_one_without_memory_takes_half(tmp_path: Path) -> None:
    """Also where the ranks cannot divide a step together, as with BatchNorms of several GPUs."""
    held = lease.acquire(results.begin(tmp_path, RUN))
    held.release(Failure("out of memory", "CUDA out of memory"))
    assert execute(RUN, tmp_path, ExecutionOptions()) == "done"
    result = results.outcome(tmp_path, RUN).result
    assert result is not None
    assert result["provenance"]["micro_batch"] == RUN.recipe.batch_size // 2


def test_the_speed_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled run is traced by dynamo here and computed by torch: inductor takes a minute."""
    compile_ = partial(torch.compile, backend="eager", dynamic=False)
    monkeypatch.setattr(speed, "_compile", lambda net, _: compile_(net))
    run = replace(RUN, recipe=replace(RECIPE, epochs=1, evaluate_every_epochs=0))
    accuracies = []
    for pace in speed.SPEEDS:
        assert execute(run, tmp_path / pace, ExecutionOptions(speed=pace)) == "done"
        result = results.outcome(tmp_path / pace, run).result
        assert result is not None
        assert result["provenance"]["speed"] == pace
        accuracies.append(result["metrics"]["top1"])
    assert max(accuracies) - min(accuracies) < 1


CONVNET = replace(
    RUN,
    model=Model.of("wrn28_10", depth=10, widen=0.25),  # its BatchNorms count in every forward pass
    recipe=replace(RECIPE, epochs=1, drop_path=0.0, evaluate_every_epochs=0),
)


def on_small_device(
    run: Classification, root: Path, how: ExecutionOptions, images: int = 30, rank: int = 0
) -> None:
    """The run on a device with memory for so many images; the model's head is the last to ask."""
    create = classification.create

    def created(*arguments: Any) -> nn.Module:
        net = create(*arguments)
        net.get_submodule("head").register_forward_pre_hook(full)
        return net

    def full(head: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if head.training and len(inputs[0]) > images and os.environ.get("RANK", "0") == str(rank):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classification, "create", created)
        execute(run, root, how)


@pytest.mark.parametrize("run", [RUN, CONVNET], ids=["nest", "convnet"])
def test_out_of_memory_halves_the_micro_batch(tmp_path: Path, run: Classification) -> None:
    """Every byte is that of the run with the smaller micro-batch from the start."""
    on_small_device(run, tmp_path / "found", ExecutionOptions())
    execute(run, tmp_path / "given", ExecutionOptions(micro_batch=26))
    assert outputs(tmp_path / "found", run) == outputs(tmp_path / "given", run)
    result = results.outcome(tmp_path / "found", run).result
    assert result is not None
    facts = result["provenance"]
    assert facts["micro_batch"] == 26


def test_out_of_memory_with_the_smallest_micro_batch(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        on_small_device(RUN, tmp_path, ExecutionOptions(), images=1)
    end = lease.failure_of(lease.read(results.folder(tmp_path, RUN)) or {})
    assert end is not None
    assert end.cause == "out of memory"


def test_of_two_ranks_one_lacks_memory(tmp_path: Path) -> None:
    """Both divide their shares further."""
    found, given = tmp_path / "found", tmp_path / "given"
    how = ExecutionOptions(attempt="a")
    assert in_processes(2, on_small_device, RUN, found, how, 30, 1) == [None, None]
    assert in_processes(2, execute, RUN, given, replace(how, micro_batch=26)) == ["done"] * 2
    assert outputs(found, RUN) == outputs(given, RUN)


RANKS = """
import sys, torch
from pathlib import Path
from typing import Any
import repro.train.device as device
device.has_bf16 = lambda _: False
from repro.launch import job
job.main(sys.argv[1:])
"""


@pytest.mark.usefixtures("fp32")
def test_three_processes_are_one(tmp_path: Path) -> None:
    """DistributedDataParallel over gloo; neither 200 images nor 1,000 test images divide by 3."""
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    many = tmp_path / "many"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    subprocess.run([*torchrun, str(script), spec_file(many, RUN)], check=True, env=FP32)
    one = accumulated(RUN, tmp_path / "one", None)
    assert_alike(load_file(results.folder(many, RUN) / results.WEIGHTS), one)
    ours, theirs = (outputs(root, RUN)[0] for root in (tmp_path / "one", many))
    assert isinstance(ours, dict)
    assert isinstance(theirs, dict)
    assert theirs["test_images"] == 1000
    assert theirs["top1"] == pytest.approx(ours["top1"], abs=0.3)
    assert theirs["loss"] == pytest.approx(ours["loss"], abs=1e-3)


def test_a_loss_that_is_not_finite_is_a_result(tmp_path: Path) -> None:
    run = replace(RUN, recipe=replace(RECIPE, lr=1e30, warmup_epochs=0.0, batch_size=50))
    assert execute(run, tmp_path, ExecutionOptions()) == "diverged"
    result = results.outcome(tmp_path, run).result
    assert result is not None
    assert result["metrics"] == {"step": 10}
    assert {"speed", "micro_batch", "decode"} <= result["provenance"].keys()
    assert execute(run, tmp_path, ExecutionOptions()) == "diverged"  # and it is not tried again


@pytest.mark.parametrize("test_split", ["validation", "none"])
def test_statistics_that_are_not_finite_end_as_diverged(
    tmp_path: Path, test_split: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training does not see them, and its loss is finite: a test, or the weights, tell."""
    create = classification.create

    def created(*arguments: Any) -> nn.Module:
        net = create(*arguments)
        net.get_buffer("norm.running_mean").fill_(float("nan"))
        return net

    monkeypatch.setattr(classification, "create", created)
    run = replace(CONVNET, test_split=test_split)
    assert execute(run, tmp_path, ExecutionOptions()) == "diverged"
    result = results.outcome(tmp_path, run).result
    assert result is not None
    assert result["metrics"] == {"step": 10}
    assert "not finite" in result["provenance"]["why"]
    assert "NaN" not in (results.folder(tmp_path, run) / results.METRICS).read_text()


def test_a_result_is_finite() -> None:
    with pytest.raises(NotFinite, match="not finite: top1"):
        Result("done", {"top1": float("nan"), "loss": 1.0})


def test_the_stream_of_samples() -> None:
    """Every epoch visits every sample once, in an order of its own; batches straddle epochs."""
    size, batch = 10, 4
    stream = [classification.global_batch(step, batch, size, seed=0) for step in range(5)]
    indices, epochs = (torch.cat(part) for part in zip(*stream, strict=True))
    assert epochs.tolist() == [0] * 10 + [1] * 10
    first, second = indices[:10].tolist(), indices[10:].tolist()
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert stream[2][0].tolist() == first[8:] + second[:2]
    assert (
        indices.tolist()
        != torch.cat(
            [classification.global_batch(step, batch, size, seed=1)[0] for step in range(5)]
        ).tolist()
    )


@given(st.integers(0, 40), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]))
def test_a_batch_is_the_next_part_of_the_stream(
    step: int, batch: int, size: int, repeats: int
) -> None:
    """However many epochs it spans."""
    indices, epochs = classification.global_batch(step, batch, size, seed=0, repeats=repeats)
    one_by_one = [
        classification.global_batch(step * batch + n, 1, size, 0, repeats) for n in range(batch)
    ]
    assert indices.tolist() == [int(index) for index, _ in one_by_one]
    assert epochs.tolist() == [int(epoch) for _, epoch in one_by_one]


class Sizes(TorchDispatchMode):
    """Notes how many elements each operation makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        made = func(*args, **(kwargs or {}))
        self.largest = max(self.largest, made.numel() if isinstance(made, torch.Tensor) else 0)
        return made


def test_a_batch_costs_its_own_size_and_is_made_once_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that of an epoch: ImageNet-22K has 14 million images."""
    classification.global_batch(0, 8, 10_000, seed=0)  # the epoch's order, which is kept
    with Sizes() as sizes:
        classification.global_batch(1, 8, 10_000, seed=0)
    assert sizes.largest == 8

    made = list[int]()
    batch_of = classification.global_batch

    def counted(step: int, *rest: int) -> tuple[torch.Tensor, torch.Tensor]:
        made.append(step)
        return batch_of(step, *rest)

    monkeypatch.setattr(classification, "global_batch", counted)
    assert (
        execute(replace(RUN, recipe=replace(RECIPE, epochs=1)), tmp_path, ExecutionOptions())
        == "done"
    )
    assert made == list(range(10))


def test_evaluation_counts_every_image_once() -> None:
    """Against a loop, one image at a time, from the kept predictions."""
    torch.manual_seed(0)
    test = datasets.load("fashion-mnist-6k", "validation", None)
    net = classification.create(NEST, 10, 0.0, seed=0)
    metrics, predictions = classification.evaluate(
        net, test, None, Ranks(0, 1, torch.device("cpu"))
    )
    label, top5 = predictions["label"], predictions["top5"]
    assert np.array_equal(label, test.labels.numpy())
    assert all(len(set(row)) == 5 for row in top5.tolist())
    hits = sum(bool(row[0] == truth) for row, truth in zip(top5, label, strict=True))
    assert metrics["top1"] == 100 * hits / 1000
    assert metrics["top5"] == 100 * sum(t in row for row, t in zip(top5, label, strict=True)) / 1000


def test_weights_are_a_function_of_the_seed() -> None:
    torch.manual_seed(1)
    a = classification.create(NEST, 10, 0.1, seed=3).state_dict()
    torch.manual_seed(2)
    b = classification.create(NEST, 10, 0.1, seed=3).state_dict()
    c = classification.create(NEST, 10, 0.1, seed=4).state_dict()
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert not torch.equal(a["head.weight"], c["head.weight"])


def test_metrics_have_a_line_an_epoch(undisturbed: tuple[object, ...]) -> None:
    """Tested on the way where the recipe says so; the last test is the result itself."""
    metrics = undisturbed[1]
    assert isinstance(metrics, bytes)
    lines = [json.loads(line) for line in metrics.splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 10), (2, 20)]
    assert lines[0]["test_images"] == 1000
    assert 0 < lines[0]["top1"] < 100
    assert "top1" not in lines[1]
    assert lines[1]["lr"] == 0.0


def test_a_spec_in_its_folder_is_enough(tmp_path: Path) -> None:
    """What the job reads back is the run that was written."""
    path = Path(spec_file(tmp_path, RUN))
    assert path.read_text() == to_json(RUN)
