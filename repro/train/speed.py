"""Speed options of a training step: memory format, fused optimiser, compilation.

    plain     torch's defaults
    fast      channels-last convolution weights; a fused optimiser on a GPU (the default)
    compiled  fast, and torch.compile for the forward and backward pass; with CUDA graphs on a GPU
              where a step is one micro-batch

They are not part of a run's id, since they change only the order of sums; results record them.
Compilation takes a minute or more, and pays only for long runs on a GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, nn

from repro.core import records
from repro.cost import memory
from repro.execution import ExecutionOptions, Speed

SPEEDS: tuple[Speed, ...] = get_args(Speed)
DEFAULT: Speed = ExecutionOptions.speed

Net = TypeVar("Net", bound=nn.Module)


def set_layout(net: Net, speed: Speed) -> Net:
    """Convert four-dimensional weights to channels-last, unless `speed` is 'plain'.

    oneDNN and cuDNN then convolve without conversions. Layers without a convolution are not
    affected. A model with a convolution that oneDNN gets wrong is not converted.
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
    """Whether to use a fused optimiser, which is no faster on a CPU."""
    return speed != "plain" and device.type == "cuda"


class Forward:
    """The forward pass of a model in training, compiled if `speed` says so.

    If compilation fails, for example without a C++ compiler, it warns and continues uncompiled:
    `speed` is then 'fast'.
    """

    def __init__(self, net: nn.Module, speed: Speed) -> None:
        self.net, self.speed = net, speed
        self._compiled: dict[bool, Callable[[Tensor], Tensor]] = {}

    def __call__(self, images: Tensor, *, whole: bool) -> Tensor:
        """The model's output (B, ...) for `images`.

        Args:
            whole: these are all images of the step. Otherwise gradients are accumulated, and CUDA
                graphs would overwrite them.
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
            with config.patch(force_non_lazy_backward_lowering=True):  # so that it fails here
                return self._compiled[graphs](images)
        except Exception as error:
            if not _is_compiler_error(error):
                raise
            cause = getattr(error, "inner_exception", error)
            why = records.one_line(str(cause), 200) or type(cause).__name__
            warnings.warn(f"cannot compile the model ({why}); continuing uncompiled", stacklevel=2)
            self.speed = "fast"
            return self.net(images)  # type: ignore[no-any-return]


def _compile(net: nn.Module, graphs: bool) -> Callable[[Tensor], Tensor]:
    options: dict[str, Any] = {"mode": "reduce-overhead"} if graphs else {}
    compiled: Callable[[Tensor], Tensor] = torch.compile(net, dynamic=False, **options)
    return compiled


def _is_compiler_error(error: Exception) -> bool:
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException) and not memory.is_out_of_memory(error)
