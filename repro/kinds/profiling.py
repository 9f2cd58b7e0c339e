"""The size, work, speed and memory of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from repro.core.recipe import Model
from repro.core.run import Run, as_slug
from repro.core.work import FixedWork

HOURS = 1 / 60


@dataclass(frozen=True, kw_only=True)
class Profiling(Run):
    """Measure a model. Metrics: `parameters`, and `macs`, multiply-adds of a forward pass an image.

    On a device also `forward_images_per_second`, `train_images_per_second` (forward, backward and
    AdamW), and on a GPU `forward_peak_bytes`, `train_peak_bytes` of memory.
    """

    kind: ClassVar[str] = "profiling"
    task: ClassVar[str] = "repro.tasks.profiling"
    model: Model
    classes: int  # 0: of a generator, which makes images of latents
    image_size: int  # px
    device: str = ""  # '': only counted; 'cpu' (one thread); else part of a GPU's name, as 'H100'
    precision: Literal["fp32", "bf16"] = "fp32"
    batch_size: int = 1
    attention: Literal["", "fused", "plain"] = ""  # plain: with all scores made

    @property
    def metrics(self) -> tuple[str, ...]:
        speeds = ("forward_images_per_second", "train_images_per_second") if self.device else ()
        on_gpu = self.device not in ("", "cpu")
        peaks = ("forward_peak_bytes", "train_peak_bytes") if on_gpu else ()
        return ("parameters", "macs", *speeds, *peaks)

    @property
    def is_stochastic(self) -> bool:
        return False

    @property
    def slug(self) -> str:
        where = f"{self.device}-{self.precision}-b{self.batch_size}" if self.device else "counted"
        where += f"-{self.attention}" * bool(self.attention)
        return as_slug(f"{self.model.name}-{self.image_size}px-{self.classes}-{where}")

    @property
    def as_profile(self) -> Profiling:
        return self

    @property
    def work(self) -> FixedWork:
        return FixedWork(HOURS, "about a minute")

    @property
    def footprint(self) -> None:
        return None


def costing(model: Model) -> Model:
    """The model without options that change no cost, as the rates of dropout."""
    options = {
        name: value for name, value in model.options if "drop" not in name and name != "gelu"
    }
    return Model.of(model.name, **options)
