"""How many images are tested at once: as many as fit, and half of them when memory runs out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from repro import memory
from repro.train import activations

ON_CPU = 100  # activations of 500 leave the cache; the bits are the same
MOST = 1024  # on a GPU, which has enough to do by then


class AtOnce:
    """At most `size` images at once, and fewer, for good, once memory has run out."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """What `forward` makes of images (B, ...), in parts that fit into memory.

        torch.OutOfMemoryError, or its like, if a single image does not fit.
        """
        while True:
            try:
                return torch.cat([forward(part) for part in images.split(self.size)])
            except RuntimeError as error:
                if self.size == 1 or not memory.is_lack(error):
                    raise
            self.size = -(-min(self.size, len(images)) // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def that_fit(net: nn.Module, side: int, *, exact: bool = False, halvings: int = 0) -> AtOnce:
    """As many images (3, side, side) as the device of the model has room for.

    Args:
        exact: in fp32 also where there is bf16.
        halvings: how often earlier attempts ran out of memory.
    """

    def each(bf16: bool) -> int:
        return activations.bytes_an_image_tested(net, side, bf16 and not exact)

    fit = activations.images_that_fit([net], each)
    most = ON_CPU if fit is None else min(fit, MOST)
    return AtOnce(max(1, most >> halvings))
