"""Spectral normalisation (Miyato et al. 2018): a weight divided by its largest singular value.

torch's parametrization runs a power iteration in every forward pass in training mode. Here it runs
once a step, whatever the number of passes or micro-batches, so that all of them see the same
function; SAGAN, too, iterates once a step.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm, spectral_norm

__all__ = ["advance_spectral_norms", "spectrally_normalize"]

M = TypeVar("M", bound=nn.Module)


def spectrally_normalize(module: M) -> M:
    """Normalise the module's weight; returns the module."""
    spectral_norm(module)
    return module


@torch.no_grad()
def advance_spectral_norms(net: nn.Module) -> None:
    """Run one power iteration for every normalised weight of `net` and disable automatic ones.

    Call it after `net.train()`, which enables them in every forward pass.
    """
    for module in net.modules():
        if isinstance(module, nn.utils.parametrize.ParametrizationList):
            for norm in module:
                if isinstance(norm, _SpectralNorm):
                    norm.train()
                    norm(module.original)
                    norm.eval()
