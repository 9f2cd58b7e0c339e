"""What had to be decided to build NesT and its augmentation; it holds in every table and figure.

Official files are those of google-research/nested-transformer at commit 59c0d6a.
"""

from __future__ import annotations

from repro.spec import Decision

_NET = "official models/nest_net.py"
_ATTENTION = "official libml/self_attention.py"

DECISIONS = (
    Decision("activation of the FFN", "GELU, tanh approximation", "ReLU, as the paper's formula "
             "writes; the exact GELU, as timm", _NET),
    Decision("attention on CIFAR", "multi-query: all heads share one key and value head",
             "multi-head, as the paper's text", f"{_NET}; it makes the 6 M parameters of NesT-T"),
    Decision("width of the hierarchies on CIFAR", "constant", "doubling, as on ImageNet", _NET),
    Decision("position embeddings", "one for every block of every hierarchy",
             "one for all blocks", _ATTENTION),
    Decision("padding of the 3×3 max-pooling", "at the far edge only ('SAME')",
             "one pixel on every side, as PyTorch users write it", _NET),
    Decision("within the aggregation", "convolution with bias, then LN; no activation",
             "an activation in between", _NET),
    Decision("final LN", "before global average pooling", "none, as the paper's pseudo code", _NET),
    Decision("initial weights", "normal of 0.02, cut at two sigma", "cut at ±2, as timm",
             "official libml/attn_utils.py"),
    Decision("weight decay", "on everything but the position embeddings", "not on biases and LN",
             "official train.py, configs"),
    Decision("stochastic depth", "one draw an image, for all of its blocks", "one a block",
             _ATTENTION),
    Decision("reported accuracy", "after the last epoch", "the best epoch",
             "official train.py selects none"),
    Decision("RandAugment", "the authors' sixteen operations, none 'increasing'",
             "timm's rand-m9-mstd0.5-inc1, which is stronger: it is used for DeiT, Swin and "
             "RegNetY", "official augment/rand_augment.py"),
    Decision("weights of Mixup and CutMix", "each image its own, from a power of a uniform number; "
             "CutMix's box keeps at most half, labels by its nominal area",
             "one for a batch, from Beta(0.8, 0.8), labels by the area left: for DeiT, Swin and "
             "RegNetY", "official augment/augment_ops.py"),
    Decision("partner in Mixup and CutMix", "the neighbour in the shuffled batch",
             "a permutation (Mixup) or the reversed batch (CutMix) of a device",
             "our choice: so that any number of GPUs mixes alike"),
    Decision("colour jitter", "SimCLR v2's on ImageNet, strength 0.3, with greyscale and a second "
             "flip; none on CIFAR", "none, as DeiT", "official configs/imagenet_nest.py"),
    Decision("random erasing", "clipped where it leaves the image", "drawn again, as timm",
             "official augment/augment_ops.py"),
)  # fmt: skip
