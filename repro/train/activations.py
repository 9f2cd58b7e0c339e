"""The memory that a classifier's training step needs on a GPU, measured without one.

Autograd keeps activations from the forward pass for the backward pass. They are counted on tensors
that have shapes and types and no values, on a GPU that need not exist: torch's FakeTensorMode. It
applies the types of CUDA's autocast, but does not choose CUDA's attention kernels, so `_Fused`
does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode

from repro import memory
from repro.train import device as devices
from repro.train import optim

_FEW, _MORE = 2, 4  # images: the difference leaves out what does not grow with the batch


def images_that_fit(net: nn.Module, side: int, device: torch.device) -> int | None:
    """How many images (3, side, side) the GPU can train on at once; None: a CPU, any number."""
    if device.type != "cuda":
        return None
    total = torch.cuda.get_device_properties(device).total_memory
    parameters = sum(p.numel() for p in net.parameters())
    bf16 = devices.precision(device) != "fp32"
    return memory.images_that_fit(total, parameters, bytes_an_image(net, side, bf16))


def bytes_an_image(net: nn.Module, side: int, bf16: bool = True) -> int:
    """Bytes that are kept for the backward pass for each image (3, side, side) of a batch.

    Args:
        net: on any device, also torch's meta device. It is not changed, nor is anything computed.
        bf16: in bf16 autocast, else in fp32.
    """
    few, more = (_kept(net, images, side, bf16) for images in (_FEW, _MORE))
    return (more - few) // (_MORE - _FEW)


def _kept(net: nn.Module, images: int, side: int, bf16: bool) -> int:
    """Bytes that autograd keeps of a forward pass and its loss, weights among them."""
    training = net.training
    with FakeTensorMode():
        gpu = torch.device("cuda")
        state = {
            name: torch.empty(value.shape, dtype=value.dtype, device=gpu).requires_grad_(
                value.requires_grad
            )
            for name, value in (*net.named_parameters(), *net.named_buffers())
        }
        kept: dict[int, Tensor] = {}

        def keep(value: Tensor) -> Tensor:
            kept[value.untyped_storage()._cdata] = value  # alive, so that the address stays its own
            return value

        batch = torch.empty(images, 3, side, side, device=gpu)
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value)
        try:
            net.train()
            with hooks, _Fused():
                with _autocast(bf16):
                    logits = torch.func.functional_call(net, state, (batch,))
                optim.soft_cross_entropy(logits, torch.empty_like(logits)).sum()
        finally:
            net.train(training)
        return sum(value.untyped_storage().nbytes() for value in kept.values())


@contextmanager
def _autocast(bf16: bool) -> Iterator[None]:
    """CUDA's autocast. torch.autocast does nothing where there is no GPU."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", bf16)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


class _Fused(TorchFunctionMode):
    """Attention by the kernels that CUDA has for it, which do not keep the scores."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **_: object
) -> Tensor:
    if torch.is_autocast_enabled("cuda"):
        q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
    aten, bias = torch.ops.aten, None
    if attn_mask is not None:
        bias = attn_mask.to(q.dtype).expand(*q.shape[:-1], k.shape[-2])
    out: Tensor
    if bias is None and q.dtype == torch.bfloat16:
        out = aten._scaled_dot_product_flash_attention(q, k, v)[0]
    else:
        out = aten._scaled_dot_product_efficient_attention(q, k, v, bias, True)[0]
    return out
