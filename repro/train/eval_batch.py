"""Evaluation batch size: as many images as fit, halved when memory runs out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from repro.cost import memory
from repro.train import activations

ON_CPU = 100  # images; activations of 500 do not fit in the cache; results are the same
MAX_ON_GPU = 1024  # images; more do not increase utilisation


class EvalBatcher:
    """Runs a forward pass in batches of at most `size`; out of memory halves `size` for good."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """The output of `forward` for images (B, ...), in batches that fit into memory.

        torch.OutOfMemoryError, or another error for it, if a single image does not fit.
        """
        while True:
            try:
                return torch.cat([forward(part) for part in images.split(self.size)])
            except RuntimeError as error:
                if self.size == 1 or not memory.is_out_of_memory(error):
                    raise
            self.size = -(-min(self.size, len(images)) // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def make_batcher(
    net: nn.Module, side: int, *, exact: bool = False, halvings: int = 0
) -> EvalBatcher:
    """A batcher with as many images (3, side, side) as fit on the model's device.

    Args:
        exact: in fp32 even where bf16 is available.
        halvings: how often earlier attempts ran out of memory.
    """

    def each(bf16: bool) -> int:
        return activations.eval_bytes_per_image(net, side, bf16 and not exact)

    fit = activations.max_images([net], each)
    size = ON_CPU if fit is None else min(fit, MAX_ON_GPU)
    return EvalBatcher(max(1, size >> halvings))
