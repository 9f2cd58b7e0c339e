"""The memory of a training or evaluation step on a GPU, measured without one.

Autograd saves activations of the forward pass for the backward pass. They are counted on fake
tensors (torch's FakeTensorMode), which have shapes and types but no values, so no GPU is needed.
FakeTensorMode applies CUDA's autocast types but does not select CUDA's attention kernels;
`_FusedAttention` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet, finalize

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from repro.cost import memory
from repro.train import device as devices
from repro.train import optim

_GPU = torch.device("cuda")
# Images: the difference of two batches cancels constant terms. For peaks, batches are so large that
# the peak is not at the end, where the casts of all weights are in memory.
_TRAINING_BATCHES, _EVAL_BATCHES = (2, 4), (256, 512)


def max_images(nets: Sequence[nn.Module], each: Callable[[bool], int]) -> int | None:
    """The number of images that fit on the models' GPU at once; None on a CPU: no limit.

    Includes weights, gradients and Adam's moments, since evaluation happens during training.

    Args:
        each: bytes per image, given whether bf16 autocast is on.
    """
    device = next(nets[0].parameters()).device
    if device.type != "cuda":
        return None
    total = torch.cuda.get_device_properties(device).total_memory
    total = int(total * torch.cuda.get_per_process_memory_fraction(device))
    parameters = sum(p.numel() for net in nets for p in net.parameters())
    return memory.images_that_fit(total, parameters, each(devices.precision(device) != "fp32"))


def training_bytes_per_image(net: nn.Module, side: int, bf16: bool = True) -> int:
    """Bytes saved for the backward pass for each image (3, side, side) of a batch.

    Args:
        net: on any device, including torch's meta device. It is not changed; nothing is computed.
        bf16: in bf16 autocast, else in fp32.
    """

    def forward(images: int) -> None:
        batch = torch.empty(images, 3, side, side, device=_GPU)
        logits = _fake_forward(net, _GPU, bf16)(batch)
        optim.soft_cross_entropy(logits, torch.empty_like(logits)).sum()

    return _bytes_per_image(_saved_bytes, forward, [net])


def eval_bytes_per_image(net: nn.Module, side: int, bf16: bool = True) -> int:
    """Peak bytes for each image of an evaluation batch.

    Like `training_bytes_per_image`, without a backward pass.
    """

    def forward(images: int) -> None:
        batch = torch.empty(images, 3, side, side, device=_GPU)
        _fake_forward(net, _GPU, bf16)(batch)

    return _bytes_per_image(_peak_bytes, forward, [net], training=False)


def training_bytes_per_pair(
    generator: nn.Module,
    discriminator: nn.Module,
    losses: Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], object],
    *,
    latent_dim: int,
    side: int,
    penalised: bool,
    bf16: bool = True,
) -> int:
    """`training_bytes_per_image` for a pair of a real and a generated image in a GAN step.

    Args:
        losses: a function of the discriminator, real images and generated ones.
        latent_dim: dimension of the latent.
        penalised: whether `losses` differentiates a gradient, in fp32. Fake tensors on a GPU do not
            support that, so the discriminator's part is measured on fake CPU tensors: in fp32 both
            save the same.
    """
    device = torch.device("cpu") if penalised else _GPU

    def forward(images: int) -> None:
        _fake_forward(generator, _GPU, bf16)(torch.empty(images, latent_dim, device=_GPU))
        shape = (images, 3, side, side)
        real, fake = torch.empty(shape, device=device), torch.empty(shape, device=device)
        losses(
            _fake_forward(discriminator, device, bf16 and not penalised),
            real,
            fake.requires_grad_(),
        )

    return _bytes_per_image(_saved_bytes, forward, [generator, discriminator])


def _bytes_per_image(
    bytes_of: Callable[[Callable[[int], None], int], int],
    forward: Callable[[int], None],
    nets: Sequence[nn.Module],
    training: bool = True,
) -> int:
    """The bytes that each additional image adds to a forward pass."""
    few, more = _TRAINING_BATCHES if training else _EVAL_BATCHES
    modes = [net.training for net in nets]
    try:
        for net in nets:
            net.train(training)
        return (bytes_of(forward, more) - bytes_of(forward, few)) // (more - few)
    finally:
        for net, mode in zip(nets, modes, strict=True):
            net.train(mode)


def _saved_bytes(forward: Callable[[int], None], images: int) -> int:
    """Bytes that autograd saves of a forward pass and its loss, including weights."""
    saved: dict[int, Tensor] = {}

    def save(value: Tensor) -> Tensor:
        saved[value.untyped_storage()._cdata] = value  # alive, so that its address is not reused
        return value

    hooks = torch.autograd.graph.saved_tensors_hooks(save, lambda value: value)
    with FakeTensorMode(), hooks, _FusedAttention():
        forward(images)
        return sum(value.untyped_storage().nbytes() for value in saved.values())


def _peak_bytes(forward: Callable[[int], None], images: int) -> int:
    """Peak bytes of the tensors of a forward pass without a backward pass."""
    live = _LiveBytes()
    with FakeTensorMode(), torch.no_grad(), _FusedAttention(), live:
        forward(images)
    return live.peak


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of live tensors that operations create."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        self._known = WeakSet[torch.UntypedStorage]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.untyped_storage() not in self._known:
                storage = leaf.untyped_storage()
                self._known.add(storage)
                self._add(storage.nbytes())
                finalize(storage, self._add, -storage.nbytes()).atexit = False
        self.peak = max(self.peak, self._now)
        return out

    def _add(self, size: int) -> None:
        self._now += size


def _fake_forward(net: nn.Module, device: torch.device, bf16: bool) -> Callable[[Tensor], Tensor]:
    """The model with fake weights, on a device that need not exist."""
    state = {
        name: torch.empty(value.shape, dtype=value.dtype, device=device).requires_grad_(
            value.requires_grad
        )
        for name, value in (*net.named_parameters(), *net.named_buffers())
    }

    def call(batch: Tensor) -> Tensor:
        with _autocast(bf16):
            out: Tensor = torch.func.functional_call(net, state, (batch,))
        return out

    return call


@contextmanager
def _autocast(bf16: bool) -> Iterator[None]:
    """CUDA's autocast without a GPU, where torch.autocast does nothing."""
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


class _FusedAttention(TorchFunctionMode):
    """Computes attention by CUDA's fused kernels, which do not save the scores.

    They take only (B, heads, N, d). With more dimensions, as in timm's NesT, torch uses matrix
    products.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention and args[0].ndim == 4:
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
