"""Every task on a pretended GPU: no devices mix, and the host waits for nothing within a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from repro.data import prepare, randomness
from repro.data.augment import augment
from repro.data.augment.augment import Augmentation
from repro.execution import ExecutionOptions
from repro.spec import Classification, Profiling, Recipe, Run
from repro.tasks import (
    Interrupted,
    Result,
    classification,
    generation,
    localization,
    profiling,
    traversal,
)
from repro.tasks.explanation import load_classifier
from repro.train import optim
from tests.pretended_gpu import GPU, Event, GPUTensor, Log, MixedDevices, Race, pretended_gpu
from tests.tasks import test_classification as small
from tests.tasks import test_explanations as explanations
from tests.tasks import test_generation as adversarial
from tests.tasks import test_photos as photographs

NEST = replace(
    small.RUN,
    dataset="cifar10-smoke",  # 20 images: two steps an epoch
    recipe=replace(small.RECIPE, batch_size=10),
    train_split="train",
    test_split="test",
)
JITTERED = replace(
    NEST,
    recipe=replace(
        NEST.recipe,
        augmentation="timm",
        color_jitter=0.3,
        optimizer="sgd",
        clip_norm=1.0,
        evaluate_every_epochs=0,
    ),
)
PHOTOS = replace(photographs.RUN, recipe=replace(photographs.RECIPE, batch_size=10))
UNTRAINED = replace(NEST, recipe=replace(NEST.recipe, epochs=0))
GAN = replace(adversarial.RUN, recipe=replace(adversarial.RECIPE, steps=4, evaluate_every_steps=0))
HINGE = replace(adversarial.CONVNET, recipe=replace(adversarial.CONVNET.recipe, steps=4))
PROFILE = Profiling(
    model=small.NEST, classes=10, image_size=32, device="H100", precision="bf16", batch_size=4
)


LOCATED = explanations.located("cam", probed=2)
INPUTS = torch.randn(2, 3, 64, 64), torch.tensor([3, 4])  # images and their classes


@dataclass
class Job:
    """A job without a launcher, with initial weights for trained ones."""

    options: ExecutionOptions
    checkpoints: Path
    log: Log
    stops_at: int = 0  # the call that is answered by yes
    steps: list[set[Event]] = field(default_factory=list)  # what happened between two calls
    halvings: int = 0

    def should_stop(self) -> bool:
        self.steps.append(self.log.take())
        return len(self.steps) == self.stops_at

    def still_owner(self) -> bool:
        return True

    def weights_path(self, run: Run) -> Path:
        assert isinstance(run, Classification)
        path = self.checkpoints / f"{run.id}.safetensors"
        if not path.exists():
            save_file(classification.create(run.model, 10, 0.0, run.seed).state_dict(), path)
        return path

    def save_preview(self, name: str, data: bytes) -> None: ...

    def report_progress(self, step: int, steps: int, line: object) -> None: ...

    def write_metrics(self, lines: object) -> None: ...


def resumed(execute: Callable[[Any, Job], Result], run: Run) -> Callable[[Job], Result]:
    """Stopped after its first step, and taken up again."""

    def both(job: Job) -> Result:
        job.stops_at = 1
        with pytest.raises(Interrupted):
            execute(run, job)
        job.stops_at = 0
        return execute(run, job)

    return both


def attributed(method: str) -> Callable[[Job], None]:
    """The maps of a method alone; the whole of a localization is measured with one of them."""

    def explain(job: Job) -> None:
        run = explanations.classifier(explanations.MODELS[method])
        net = load_classifier(run, 10, job.weights_path(run)).to(GPU)
        maps = localization.METHODS[method](net, *(each.to(GPU) for each in INPUTS))
        assert isinstance(maps, GPUTensor)

    return explain


def followed(**changes: Any) -> Callable[[Job], object]:
    run = explanations.followed(pictures=4, ablated=2, **changes)
    return lambda job: traversal.execute(run, job)


TRAINED = {
    "NesT, resumed",
    "timm's augmentation, SGD",
    "photographs",
    "GAN, resumed",
    "GAN with hinge loss",
}
CASES: dict[str, Callable[[Job], object]] = {
    "NesT, resumed": resumed(classification.execute, NEST),
    "timm's augmentation, SGD": lambda job: classification.execute(JITTERED, job),
    "photographs": lambda job: classification.execute(PHOTOS, job),
    "weights as they are": lambda job: classification.execute(UNTRAINED, job),
    "GAN, resumed": resumed(generation.execute, GAN),
    "GAN with hinge loss": lambda job: generation.execute(HINGE, job),
    "localization": lambda job: localization.execute(LOCATED, job),
    **{method: attributed(method) for method in localization.METHODS},
    "GradCAT": followed(),
    "GradCAT of one object": followed(objects=1),
    "a profile": lambda job: profiling.execute(PROFILE, job),
}

# Where the host waits, or a copy blocks: (what, place). Nothing that is not listed may appear.
# Remove what is mended. In every step there is nothing.

NOW_AND_THEN = {
    # Numbers and images that stay on the GPU.
    ("torch.tensor", "repro/data/loading/transfer.py:_constant"),
    ("to gpu", "repro/data/loading/loader.py:_in_memory_batches"),
    # Classification: the model, the loss every ten steps, an evaluation.
    ("to gpu", "repro/tasks/classification.py:_test_weights"),
    ("to gpu", "repro/tasks/classification.py:_train"),
    ("item", "repro/tasks/classification.py:_train"),
    ("to gpu", "optim/optimizer.py:_process_value_according_to_param_policy"),
    ("index on the CPU", "repro/tasks/classification.py:evaluate"),
    ("to cpu", "repro/tasks/classification.py:evaluate"),
    ("to gpu", "repro/tasks/classification.py:evaluate"),
    ("item", "repro/tasks/__init__.py:check_finite"),  # are the weights finite?
    # Generation: the models, the losses, samples and how they are measured.
    ("to gpu", "repro/tasks/generation.py:_train"),
    ("tolist", "repro/tasks/generation.py:_train"),
    ("item", "repro/tasks/generation.py:generate"),
    ("to gpu", "repro/tasks/generation.py:make_extractor"),
    ("to gpu", "repro/tasks/generation.py:sample_sheets"),
    ("to gpu", "repro/tasks/generation.py:sample"),
    ("to cpu", "repro/data/image_grid.py:grid"),
    ("to gpu", "repro/fidelity/features.py:__call__"),
    ("to gpu", "repro/fidelity/features.py:from_classifier"),
    ("item", "repro/fidelity/metrics.py:spread"),
    ("to gpu", "repro/fidelity/moments.py:add"),
    ("to cpu", "repro/tasks/generation.py:_features_on_cpu"),
    ("to cpu", "repro/fidelity/moments.py:statistics"),
    # Explanations: checks of inputs and maps, and results that are scored on the CPU.
    ("item", "repro/interpret/cam.py:_check"),
    ("item", "repro/interpret/cam.py:_maps_and_gradients"),
    ("item", "repro/interpret/faithfulness.py:_curve"),
    ("to gpu", "repro/interpret/faithfulness.py:cascade"),
    ("to gpu", "repro/interpret/pointing.py:_block_hit"),
    ("item", "repro/interpret/rollout.py:gradient_rollout"),
    ("mask as index", "repro/interpret/taps.py:check_classes"),
    ("item", "repro/interpret/taps.py:check_finite"),
    ("item", "repro/tasks/explanation.py:require_finite"),
    ("to gpu", "repro/tasks/explanation.py:load_run_classifier"),
    ("to cpu", "repro/tasks/localization.py:_faithfulness_metrics"),
    ("to gpu", "repro/tasks/localization.py:_faithfulness_metrics"),
    ("to cpu", "repro/tasks/localization.py:_example_maps"),
    ("to gpu", "repro/tasks/localization.py:_example_maps"),
    ("to gpu", "repro/tasks/localization.py:score_images"),
    ("to cpu", "repro/tasks/localization.py:work"),
    ("index on the CPU", "repro/tasks/traversal.py:_ablation_results"),
    ("to cpu", "repro/tasks/traversal.py:_ablation_results"),
    ("to gpu", "repro/tasks/traversal.py:_ablation_results"),
    ("to cpu", "repro/tasks/traversal.py:_hits"),
    ("to cpu", "repro/tasks/traversal.py:_contains_object"),
    ("index on the CPU", "repro/tasks/traversal.py:_example_trees"),
    ("to cpu", "repro/tasks/traversal.py:_example_trees"),
    ("index on the CPU", "repro/tasks/traversal.py:_evaluate_batches"),
    ("to cpu", "repro/tasks/traversal.py:_evaluate_batches"),
    ("to gpu", "repro/tasks/traversal.py:_composed_images"),
    ("to gpu", "repro/tasks/traversal.py:trace"),
    ("to cpu", "repro/tasks/traversal.py:tree_arrays"),
    # Profiling: the model and its inputs, and the end of a timed block.
    ("synchronize", "repro/tasks/profiling.py:_synchronize"),
    ("to gpu", "repro/tasks/profiling.py:make_inputs"),
    ("to gpu", "repro/tasks/profiling.py:measure"),
}


@cache
def data() -> Path:
    folder = Path(mkdtemp(prefix="gpu-data-"))
    for name in ("cifar10-smoke", "imagenet-smoke", "imagenetv2-smoke"):
        prepare.prepare(name, folder)
    return folder


def options() -> ExecutionOptions:
    return ExecutionOptions(data())


@cache
def events(case: str) -> tuple[set[Event], set[Event]]:
    """What the host waits for in the whole of a case, and in the third step of a training."""
    with pytest.MonkeyPatch.context() as patch, pretended_gpu() as log:
        patch.setattr(profiling, "_SECONDS", 0.01)
        patch.setattr(generation, "COLLAPSED", 0.0)  # it is not going to learn in four steps
        job = Job(options(), Path(mkdtemp(prefix="gpu-job-")), log)
        result = CASES[case](job)
        job.steps.append(log.take())
    assert not isinstance(result, Result) or result.status == "done"
    assert log.kernels.total() > 20  # it was the GPU that computed
    every: set[Event] = set().union(*job.steps)
    return every, job.steps[2] if case in TRAINED else set()


@pytest.mark.parametrize("case", CASES)
def test_no_devices_mix_and_the_host_waits_where_it_is_listed(case: str) -> None:
    every, step = events(case)
    assert every - NOW_AND_THEN == set()
    assert step == set()


def test_the_list_names_nothing_that_is_gone() -> None:
    found = [events(case) for case in CASES]
    assert set().union(*(every for every, _ in found)) == NOW_AND_THEN


# --- augmentation --------------------------------------------------------------------------------

AUTHORS = Augmentation()
KERNELS = {
    "the authors'": (AUTHORS, 250),
    "the authors', for ImageNet": (replace(AUTHORS, crop_padding=0, color_jitter=0.3), 530),
    "timm's": (replace(AUTHORS, augmentation="timm", crop_padding=0), 480),
}


@pytest.mark.parametrize("policy", KERNELS)
def test_a_batch_is_augmented_in_few_kernels_to_the_same_pixels(policy: str) -> None:
    spec, bound = KERNELS[policy]
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    keys, labels = randomness.sample_keys(0, 0, torch.arange(192)), torch.arange(192) % 10
    pixels = torch.randint(256, (192, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    pixels, of_batch = pixels.to(torch.uint8), torch.tensor(5)

    def prepared(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = augment.augment(pixels, keys, spec, mean, std)
        return augment.mix(images, labels, keys, 10, spec, batch_key=of_batch)

    expected = prepared(pixels, labels)
    with pretended_gpu() as log:
        there = pixels.to(GPU), labels.to(GPU)
        prepared(*there)  # constants are made once
        log.take()
        log.kernels.clear()
        found = prepared(*there)
        assert log.take() == set()
        assert log.kernels.total() <= bound
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.equal(ours.cpu(), theirs)


def test_a_training_augments_on_a_stream_of_its_own() -> None:
    with pretended_gpu() as log:
        result = classification.execute(NEST, Job(options(), Path(mkdtemp(prefix="gpu-job-")), log))
    assert result.status == "done"
    assert log.streams["repro/data/augment/augment.py:mix"] == {1}
    assert log.streams["repro/models/attention.py:forward"] == {0}


@pytest.mark.parametrize("fault", ["no event", "no wait for the operands"])
def test_a_race_of_two_streams_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended_gpu() as log, monkeypatch.context() as patch:
        method = "wait_event" if fault == "no event" else "wait_stream"
        patch.setattr(torch.cuda.Stream, method, lambda self, other: None)
        with pytest.raises(Race, match="written by another"):
            classification.execute(NEST, Job(options(), Path(mkdtemp(prefix="gpu-job-")), log))


# --- what is planted is found --------------------------------------------------------------------

PLAIN = replace(NEST, recipe=Recipe(epochs=2, batch_size=10, lr=1e-3), test_split="none")


def with_planted(fault: Callable[[Tensor], object], monkeypatch: pytest.MonkeyPatch) -> set[Event]:
    """The events of a training's third step whose loss does something else besides."""
    loss = optim.soft_cross_entropy

    def faulty(logits: Tensor, targets: Tensor) -> Tensor:
        fault(logits)
        return loss(logits, targets)

    monkeypatch.setattr(optim, "soft_cross_entropy", faulty)
    with pretended_gpu() as log:
        job = Job(options(), Path(mkdtemp(prefix="gpu-job-")), log)
        job.options = replace(
            options(), micro_batch=10
        )  # else the loss would be computed once more, to measure its memory
        classification.execute(PLAIN, job)
    return job.steps[2]


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (lambda x: x.sum().item(), "item"),
        (lambda x: x.cpu(), "to cpu"),
        (lambda x: x[x > 0], "mask as index"),
        (lambda x: torch.ones(3).to(x.device), "to gpu"),
        (lambda x: torch.tensor([1.0], device=x.device), "torch.tensor"),
        (lambda x: x[torch.tensor([0])], "index on the CPU"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_planted_wait_is_found(
    fault: Callable[[Tensor], object], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = "repro/tasks/classification.py:backward"
    assert with_planted(fault, monkeypatch) == {(what, where)}


def test_a_planted_mix_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MixedDevices, match=r"\(3,\), in repro/tasks/classification.py:backward"):
        with_planted(lambda x: x[0, :3] + torch.ones(3), monkeypatch)


def test_a_pretended_gpu_is_as_strict_as_torch_and_no_stricter() -> None:
    with pretended_gpu() as log:
        here, there = torch.ones(3, device=GPU), torch.ones(3)
        log.take()
        for mix in (torch.add, torch.dot, lambda a, b: torch.cat([a, b])):
            with pytest.raises(MixedDevices):
                mix(here, there)
        with pytest.raises(TypeError, match="cuda:0"):
            here.numpy()
        assert (here + torch.tensor(2.0) + 1).device == GPU
        there.pin_memory().to(GPU, non_blocking=True)
        assert not log.waits
        assert not log.blocking_copies
        kernels = log.kernels.total()
        (here.view(1, 3) + 1).relu_()
        assert log.kernels.total() == kernels + 2
        there.copy_(here)
        here.copy_(there)
        assert log.waits == {("to cpu", "test"): 1}
        assert log.blocking_copies == {("to gpu", "test"): 1}
