"""Decisions needed to implement NesT and its augmentation; they apply to every item.

Official files are those of google-research/nested-transformer at commit 59c0d6a.
"""

from __future__ import annotations

from repro.spec import Decision, Experiment

_NET = "official models/nest_net.py"
_ATTENTION = "official libml/self_attention.py"

DECISIONS = (
    Decision("activation of the FFN", "GELU, tanh approximation", "ReLU, as in the paper's "
             "formula; exact GELU, as in timm", _NET),
    Decision("attention on CIFAR", "multi-query: all heads share one key and value head",
             "multi-head, as in the paper's text", f"{_NET}; it gives NesT-T its 6 M parameters"),
    Decision("width of the hierarchies on CIFAR", "constant", "doubling, as on ImageNet", _NET),
    Decision("position embeddings", "one per block of every hierarchy",
             "one shared by all blocks", _ATTENTION),
    Decision("padding of the 3×3 max-pooling", "at the far edge only ('SAME')",
             "one pixel on every side, as is usual in PyTorch", _NET),
    Decision("within the aggregation", "convolution with bias, then LN; no activation",
             "an activation in between", _NET),
    Decision("final LN", "before global average pooling", "none, as the paper's pseudo code", _NET),
    Decision("initial weights", "normal, std 0.02, truncated at two sigma", "truncated at ±2, as "
             "in timm",
             "official libml/attn_utils.py"),
    Decision("weight decay", "on everything but the position embeddings", "not on biases and LN",
             "official train.py, configs"),
    Decision("stochastic depth", "one draw per image, for all of its blocks", "one per block",
             _ATTENTION),
    Decision("reported accuracy", "after the last epoch", "the best epoch",
             "official train.py makes no selection"),
    Decision("RandAugment", "the authors' sixteen operations, none 'increasing'",
             "timm's rand-m9-mstd0.5-inc1, which is stronger and is used for DeiT, Swin and "
             "RegNetY", "official augment/rand_augment.py"),
    Decision("weights of Mixup and CutMix", "one per image, from a power of a uniform number; "
             "CutMix keeps a box of at most half the image, labels by its nominal area",
             "one per batch, from Beta(0.8, 0.8), labels by the remaining area: for DeiT, Swin and "
             "RegNetY", "official augment/augment_ops.py"),
    Decision("partner in Mixup and CutMix", "the neighbour in the shuffled batch",
             "a permutation (Mixup) or the reversed batch (CutMix) of a device",
             "our choice: mixing does not depend on the number of GPUs"),
    Decision("the choice between Mixup and CutMix", "one per pair of images",
             "one per batch and device", "our choice: mixing does not depend on the "
             "number of GPUs"),
    Decision("posterize to 0 bits", "a black image", "an unchanged one", "our choice: TensorFlow "
             "does not say what a shift of a byte by 8 is; with magnitudes of N(9, 0.5) it does "
             "not occur"),
    Decision("colour jitter", "SimCLR v2's on ImageNet, strength 0.3, with greyscale and a second "
             "flip; none on CIFAR", "none, as in DeiT", "official configs/imagenet_nest.py"),
    Decision("random erasing", "clipped at the image border", "drawn again, as in timm",
             "official augment/augment_ops.py"),
)  # fmt: skip


def decisions(experiment: Experiment) -> tuple[Decision, ...]:
    """Those above, for an item that has NesT; none for another."""
    return DECISIONS if any("nest" in cell.run.id for cell in experiment.cells) else ()
