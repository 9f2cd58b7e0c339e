"""Self-attention within blocks, shared by NesT's layers and its query sub-sampling.

Letters in shapes: B images, T blocks of an image, N tokens of a block, C channels; in functions:
P blocks of all images, M queries, H query heads, G key heads, d their width.
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

MAX_SCORES = 2**19  # 2 MB of fp32, which fits in cache
MAX_FUSED_BLOCKS = 2**15  # blocks: a CUDA grid has 65,535 rows at most, a CIFAR image 64 blocks

_kernel: ContextVar[Kernel] = ContextVar("_kernel", default="")


@contextmanager
def kernel(name: Kernel) -> Iterator[None]:
    """Select the attention kernel within the context, in this thread, for benchmarks.

    Args:
        name: 'fused': torch's scaled_dot_product_attention, which need not store the scores.
            'plain': the formula, with the scores of the whole batch in memory at once, as in code
            of 2021. '': the default choice of `attend`.

    Results are the same up to rounding; fused kernels have no second derivative. A compiled model
    keeps the kernel it was compiled with. Raises ValueError for another name.
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

    Fused kernels require four dimensions. Where they are slow, the plain formula runs on a few
    blocks at a time, unless one block has too many scores. `kernel` overrides the choice.
    """
    name, scores = _kernel.get(), q.shape[2] * k.shape[2]  # of one block and key head
    if name == "plain":
        return plain_attention(q, k, v)
    fused = name == "fused" or _is_fused_fast(q) or scores > MAX_SCORES
    blocks = MAX_FUSED_BLOCKS if fused else MAX_SCORES // (q.shape[1] * scores)
    attention: Callable[..., Tensor] = F.scaled_dot_product_attention if fused else plain_attention
    chunks = zip(*(torch.split(t, max(1, blocks)) for t in (q, k, v)), strict=True)
    outputs = [attention(*chunk) for chunk in chunks]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _is_fused_fast(q: Tensor) -> bool:
    """Whether torch's fused kernel is faster than the formula in chunks.

    On a CPU it makes many small matrix products. MKL, for fp32, is fast at those. oneDNN, for bf16
    and for fp32 of reduced precision (see `configure_fp32`), is slow: the fused kernel loses in the
    backward pass, and in fp32 in both.
    """
    if q.device.type != "cpu":
        return True
    if torch.compiler.is_compiling():  # fp32_precision cannot be traced
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
    """Attention of q (P, M, H, d) over k and v (P, N, G, d), heads concatenated: (P, M, H·d).

    The H/G query heads of a key head become more queries to it, so no key is repeated.
    """
    p, m, _, d = q.shape
    key_heads = k.shape[2]
    q = q.reshape(p, m, key_heads, -1, d).transpose(1, 2).flatten(2, 3)
    y = attend(q, k.transpose(1, 2), v.transpose(1, 2))
    return y.reshape(p, key_heads, m, -1).transpose(1, 2).reshape(p, m, -1)


def head_sizes(dim: int, num_heads: int, kind: AttentionKind) -> tuple[int, int]:
    """The width of a head and the number of key heads; ValueError if `dim` does not divide."""
    if dim % num_heads:
        raise ValueError(f"a width of {dim} does not divide into {num_heads} heads")
    if kind not in ("multi_head", "multi_query"):
        raise ValueError(f"attention is 'multi_head' or 'multi_query', not {kind!r}")
    return dim // num_heads, num_heads if kind == "multi_head" else 1


class Attention(nn.Module):
    """Self-attention within each block: MSA_NesT of the paper's Eq. (2).

    Every query head has its own key and value head ('multi_head', the ImageNet models), or all
    share one ('multi_query', the CIFAR models).
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
        heads = self.qkv(x).view(b * t, n, -1, self.head_dim)  # blocks become part of the batch
        q, k, v = heads.split((self.query_heads, self.key_heads, self.key_heads), dim=2)
        out: Tensor = self.proj(attend_by_heads(q, k, v).view(b, t, n, c))
        return out
