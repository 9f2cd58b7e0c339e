"""The memory that a step of training or of testing needs on a GPU, measured without one.

Autograd keeps activations from the forward pass for the backward pass. They are counted on tensors
that have shapes and types and no values, on a GPU that need not exist: torch's FakeTensorMode. It
applies the types of CUDA's autocast, but does not choose CUDA's attention kernels, so `_Fused`
does.
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

from repro import memory
from repro.train import device as devices
from repro.train import optim

_GPU = torch.device("cuda")
# Images: the difference leaves out what does not grow with the batch. Where the most at a time is
# looked for, there are so many that it is not where the casts of all weights have come together.
_KEPT, _TESTED = (2, 4), (256, 512)


def images_that_fit(nets: Sequence[nn.Module], each: Callable[[bool], int]) -> int | None:
    """How many images the GPU of the models can take at once; None: a CPU, any number.

    Weights, gradients and Adam's moments are counted: a model is tested while it trains.

    Args:
        each: the bytes an image, in bf16 autocast or not.
    """
    device = next(nets[0].parameters()).device
    if device.type != "cuda":
        return None
    total = torch.cuda.get_device_properties(device).total_memory
    total = int(total * torch.cuda.get_per_process_memory_fraction(device))
    parameters = sum(p.numel() for net in nets for p in net.parameters())
    return memory.images_that_fit(total, parameters, each(devices.precision(device) != "fp32"))


def bytes_an_image(net: nn.Module, side: int, bf16: bool = True) -> int:
    """Bytes that are kept for the backward pass for each image (3, side, side) of a batch.

    Args:
        net: on any device, also torch's meta device. It is not changed, nor is anything computed.
        bf16: in bf16 autocast, else in fp32.
    """

    def forward(images: int) -> None:
        batch = torch.empty(images, 3, side, side, device=_GPU)
        logits = _imitated(net, _GPU, bf16)(batch)
        optim.soft_cross_entropy(logits, torch.empty_like(logits)).sum()

    return _an_image(_kept, forward, [net])


def bytes_an_image_tested(net: nn.Module, side: int, bf16: bool = True) -> int:
    """Bytes that are there at most at the same time, for each image of a batch that is tested.

    As `bytes_an_image`, without a backward pass.
    """

    def forward(images: int) -> None:
        batch = torch.empty(images, 3, side, side, device=_GPU)
        _imitated(net, _GPU, bf16)(batch)

    return _an_image(_largest, forward, [net], training=False)


def bytes_a_pair(
    generator: nn.Module,
    discriminator: nn.Module,
    losses: Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], object],
    *,
    latent_dim: int,
    side: int,
    penalised: bool,
    bf16: bool = True,
) -> int:
    """As `bytes_an_image`, for a real and a generated image (3, side, side) of a GAN's step.

    Args:
        losses: of the discriminator, real images and generated ones.
        latent_dim: numbers that the generator makes an image of.
        penalised: whether `losses` differentiates a gradient, in fp32. On a GPU that does not
            exist torch cannot, so the discriminator's part is measured on a CPU that need not
            exist either: in fp32 both keep the same.
    """
    where = torch.device("cpu") if penalised else _GPU

    def forward(images: int) -> None:
        _imitated(generator, _GPU, bf16)(torch.empty(images, latent_dim, device=_GPU))
        shape = (images, 3, side, side)
        real, fake = torch.empty(shape, device=where), torch.empty(shape, device=where)
        losses(_imitated(discriminator, where, bf16 and not penalised), real, fake.requires_grad_())

    return _an_image(_kept, forward, [generator, discriminator])


def _an_image(
    bytes_of: Callable[[Callable[[int], None], int], int],
    forward: Callable[[int], None],
    nets: Sequence[nn.Module],
    training: bool = True,
) -> int:
    """How many bytes more a forward pass takes for each image more."""
    few, more = _KEPT if training else _TESTED
    modes = [net.training for net in nets]
    try:
        for net in nets:
            net.train(training)
        return (bytes_of(forward, more) - bytes_of(forward, few)) // (more - few)
    finally:
        for net, mode in zip(nets, modes, strict=True):
            net.train(mode)


def _kept(forward: Callable[[int], None], images: int) -> int:
    """Bytes that autograd keeps of a forward pass and its loss, weights among them."""
    kept: dict[int, Tensor] = {}

    def keep(value: Tensor) -> Tensor:
        kept[value.untyped_storage()._cdata] = value  # alive, so that the address stays its own
        return value

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value)
    with FakeTensorMode(), hooks, _Fused():
        forward(images)
        return sum(value.untyped_storage().nbytes() for value in kept.values())


def _largest(forward: Callable[[int], None], images: int) -> int:
    """Bytes of the tensors of a forward pass without a backward one, when they are most."""
    alive = _Alive()
    with FakeTensorMode(), torch.no_grad(), _Fused(), alive:
        forward(images)
    return alive.most


class _Alive(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, as long as those live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self._now = 0
        self._known = WeakSet[torch.UntypedStorage]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in pytree.tree_leaves(out):
            if isinstance(made, Tensor) and made.untyped_storage() not in self._known:
                storage = made.untyped_storage()
                self._known.add(storage)
                self._add(storage.nbytes())
                finalize(storage, self._add, -storage.nbytes()).atexit = False
        self.most = max(self.most, self._now)
        return out

    def _add(self, size: int) -> None:
        self._now += size


def _imitated(net: nn.Module, device: torch.device, bf16: bool) -> Callable[[Tensor], Tensor]:
    """The model with weights that have no values, on a device that need not exist."""
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
    """Attention by the kernels that CUDA has for it, which do not keep the scores.

    They take (B, heads, N, d) alone. With more dimensions, as in timm's NesT, torch multiplies
    matrices.
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
