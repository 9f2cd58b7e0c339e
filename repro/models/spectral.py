"""Spectral normalisation (Miyato et al. 2018): a weight divided by its largest singular value.

By torch's parametrization, which makes a power iteration with every forward pass of a module in
training. Here there is one a step, however many passes or micro-batches the step has, so that all
of them see the same function; SAGAN, too, iterates with one pass a step.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm, spectral_norm

__all__ = ["advance_spectral_norms", "normalised"]

M = TypeVar("M", bound=nn.Module)


def normalised(module: M) -> M:
    """The module with its weight spectrally normalised."""
    spectral_norm(module)
    return module


@torch.no_grad()
def advance_spectral_norms(net: nn.Module) -> None:
    """One power iteration of every normalised weight of `net`; none follow by themselves.

    To be called after `net.train()`, which would let every forward pass make one.
    """
    for module in net.modules():
        if isinstance(module, nn.utils.parametrize.ParametrizationList):
            for norm in module:
                if isinstance(norm, _SpectralNorm):
                    norm.train()
                    norm(module.original)
                    norm.eval()
