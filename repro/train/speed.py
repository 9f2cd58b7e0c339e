"""How a model computes a training step: its layout, its optimiser's kernels, its compilation.

    plain     as torch makes it
    fast      convolution weights channels-last; the optimiser fused on a GPU (the default)
    compiled  fast, and the forward and backward pass by torch.compile; with CUDA graphs on a GPU
              where a step is one micro-batch

None of it is part of a run's name: what changes is the order of sums. Which one was used is
recorded with the result. Compilation pays for long runs on a GPU only, and takes a minute or more.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from repro import memory, records

Speed = Literal["plain", "fast", "compiled"]
SPEEDS: tuple[Speed, ...] = get_args(Speed)
DEFAULT: Speed = "fast"

Net = TypeVar("Net", bound=nn.Module)


def set_layout(net: Net, speed: Speed) -> Net:
    """`net`, whose four-dimensional weights become channels-last, unless it is to be plain.

    oneDNN and cuDNN then convolve without a copy from one layout to the other. Layers without a
    convolution are not affected. A model with a convolution that oneDNN cannot do stays plain.
    """
    if speed == "plain" or any(map(_corrupts_memory, net.modules())):
        return net
    return net.to(memory_format=torch.channels_last)


def _corrupts_memory(layer: nn.Module) -> bool:
    """Whether oneDNN writes past its workspace in the backward pass of this layer, channels-last.

    It does so for 1x1 convolutions with a stride and fewer input channels than fill a vector, 8 or
    16 (github.com/uxlfoundation/oneDNN/issues/6035).
    """
    if not isinstance(layer, nn.Conv2d) or layer.kernel_size != (1, 1):
        return False
    return max(layer.stride) > 1 and layer.in_channels // layer.groups < 16


def is_fused(speed: Speed, device: torch.device) -> bool:
    """Whether the optimiser updates all weights in one kernel. (On a CPU that is no faster.)"""
    return speed != "plain" and device.type == "cuda"


class Forward:
    """The forward pass of a model in training, compiled if `speed` says so.

    Where compilation fails, as without a C++ compiler, a warning says so and the model goes on
    without it: `speed` is then 'fast'.
    """

    def __init__(self, net: nn.Module, speed: Speed) -> None:
        self.net, self.speed = net, speed
        self._compiled: dict[bool, Callable[[Tensor], Tensor]] = {}

    def __call__(self, images: Tensor, *, whole: bool) -> Tensor:
        """The model's output (B, ...) for `images`.

        Args:
            whole: these are a step's only images. Otherwise gradients are added up, which CUDA
                graphs would overwrite.
        """
        if self.speed != "compiled":
            return self.net(images)  # type: ignore[no-any-return]
        from torch._functorch import config

        graphs = whole and images.device.type == "cuda"
        if graphs not in self._compiled:
            self._compiled[graphs] = _compile(self.net, graphs)
        if graphs:
            torch.compiler.cudagraph_mark_step_begin()
        try:
            with config.patch(force_non_lazy_backward_lowering=True):  # not first when it runs
                return self._compiled[graphs](images)
        except Exception as error:
            if not _is_of_compiler(error):
                raise
            cause = getattr(error, "inner_exception", error)
            why = records.one_line(str(cause), 200) or type(cause).__name__
            warnings.warn(f"cannot compile the model ({why}); going on without", stacklevel=2)
            self.speed = "fast"
            return self.net(images)  # type: ignore[no-any-return]


def _compile(net: nn.Module, graphs: bool) -> Callable[[Tensor], Tensor]:
    options: dict[str, Any] = {"mode": "reduce-overhead"} if graphs else {}
    compiled: Callable[[Tensor], Tensor] = torch.compile(net, dynamic=False, **options)
    return compiled


def _is_of_compiler(error: Exception) -> bool:
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException) and not memory.is_lack(error)
