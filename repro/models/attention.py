"""Self-attention within blocks, as NesT's layers and its query sub-sampling share it.

Letters in shapes: B images, T blocks of an image, N tokens of a block, C channels; for the plain
functions P blocks of any number of images, M queries, H query heads, G key heads, d their width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AttentionKind = Literal["multi_head", "multi_query"]
Kernel = Literal["", "fused", "plain"]

SCORES_AT_ONCE = 2**19  # 2 MB of fp32, little enough to stay in cache
FUSED_AT_ONCE = 2**15  # blocks: a CUDA grid has 65,535 rows at most, a CIFAR image 64 blocks

_kernel: ContextVar[Kernel] = ContextVar("_kernel", default="")


@contextmanager
def kernel(name: Kernel) -> Iterator[None]:
    """How attention is computed within it, in this thread, for measuring one way beside another.

    Args:
        name: 'fused': by torch's scaled_dot_product_attention, which need not keep the scores.
            'plain': by the formula, with the scores of the whole batch in memory at once, as code
            of 2021 had them. '': as `attend` chooses.

    All give the same up to rounding; fused kernels have no second derivative. A compiled model
    keeps what was set when it was compiled. Raises ValueError for another name.
    """
    if name not in get_args(Kernel):
        raise ValueError(f"an attention kernel is '', 'fused' or 'plain', not {name!r}")
    token = _kernel.set(name)
    try:
        yield
    finally:
        _kernel.reset(token)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of q (P, G, M, d) over k and v (P, G, N, d), for P blocks and G key heads.

    Four dimensions are what the fused kernels take. Where they are slow, the plain formula makes
    its scores for a few blocks at a time, unless one block has too many. `kernel` overrules it.
    """
    asked, scores = _kernel.get(), q.shape[2] * k.shape[2]  # of one block and key head
    if asked == "plain":
        return plain_attention(q, k, v)
    fused = asked == "fused" or _fused_is_fast(q) or scores > SCORES_AT_ONCE
    blocks = FUSED_AT_ONCE if fused else SCORES_AT_ONCE // (q.shape[1] * scores)
    core: Callable[..., Tensor] = F.scaled_dot_product_attention if fused else plain_attention
    pieces = zip(*(torch.split(t, max(1, blocks)) for t in (q, k, v)), strict=True)
    outputs = [core(*piece) for piece in pieces]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _fused_is_fast(q: Tensor) -> bool:
    """Whether torch's fused kernel beats the formula in pieces.

    On a CPU its products are many and small. MKL is quick at those in fp32. oneDNN is not, which
    has them in bf16, and in fp32 where it is allowed less (`configure_fp32` says where): there it
    loses in the backward pass, and in fp32 in both.
    """
    if q.device.type != "cpu":
        return True
    if torch.compiler.is_compiling():  # cannot trace the question below
        return False
    if q.dtype == torch.bfloat16:
        return not torch.is_grad_enabled()
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    return products.fp32_precision in ("none", "ieee")


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v."""
    scores: Tensor = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return scores.softmax(dim=-1) @ v


def attend_by_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of q (P, M, H, d) over k and v (P, N, G, d), its heads side by side: (P, M, H·d).

    H/G query heads that share a key head are simply more queries to it: nothing is repeated.
    """
    p, m, _, d = q.shape
    key_heads = k.shape[2]
    q = q.reshape(p, m, key_heads, -1, d).transpose(1, 2).flatten(2, 3)
    y = attend(q, k.transpose(1, 2), v.transpose(1, 2))
    return y.reshape(p, key_heads, m, -1).transpose(1, 2).reshape(p, m, -1)


def head_sizes(dim: int, num_heads: int, kind: AttentionKind) -> tuple[int, int]:
    """The width of a head, and how many key heads `kind` has; ValueError if they do not fit."""
    if dim % num_heads:
        raise ValueError(f"a width of {dim} does not divide into {num_heads} heads")
    if kind not in ("multi_head", "multi_query"):
        raise ValueError(f"attention is 'multi_head' or 'multi_query', not {kind!r}")
    return dim // num_heads, num_heads if kind == "multi_head" else 1


class Attention(nn.Module):
    """Self-attention within each block: MSA_NesT of the paper's Eq. (2).

    Every query head has a key and a value head of its own ('multi_head', the ImageNet models), or
    all share a single one ('multi_query', the CIFAR models).
    """

    def __init__(
        self, dim: int, num_heads: int, kind: AttentionKind, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        self.head_dim, self.key_heads = head_sizes(dim, num_heads, kind)
        self.query_heads = num_heads
        heads = self.query_heads + 2 * self.key_heads
        self.qkv = nn.Linear(dim, heads * self.head_dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, N, C) -> (B, T, N, C)."""
        b, t, n, c = x.shape
        heads = self.qkv(x).view(b * t, n, -1, self.head_dim)  # the blocks fold into the batch
        q, k, v = heads.split((self.query_heads, self.key_heads, self.key_heads), dim=2)
        out: Tensor = self.proj(attend_by_heads(q, k, v).view(b, t, n, c))
        return out
