"""Weights that others released: timm's, by their tag, from a folder, the hub's cache, or the hub.

Usable on its own: `load_released(net, released("swin_tiny_patch4_window7_224.ms_in1k"))`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from math import isqrt
from pathlib import Path

import timm
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data import hub
from repro.data.hub import NoWeights
from repro.models.nest import NesT
from repro.models.nest_flax import read_timm
from repro.models.weights import WeightsError, read


def released(tag: str, folder: Path | None = None) -> dict[str, Tensor]:
    """The tensors of timm's weights `tag`, by name.

    From `folder`/<tag>.safetensors where a folder is named, and else from the hub's cache, which is
    filled over the network. Raises NoWeights.
    """
    try:
        timm.get_pretrained_cfg(tag, allow_unregistered=False)
    except RuntimeError as error:
        raise NoWeights(f"timm knows no weights {tag!r}: {error}") from error
    path = hub.find(tag, folder)
    try:
        return read(path)
    except WeightsError as error:
        place = path if folder else "the hub's cache"
        raise NoWeights(f"{place}: {error}; fetch {hub.source(tag)}") from error


def load_released(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what `released` gave into the model of that name, and of that image size.

    WeightsError names a tensor that does not fit.
    """
    if isinstance(net, NesT):  # the converted weights of timm's port
        state = read_timm(state)[1]
    start_from(net, state, keep_head=False)


def start_from(net: nn.Module, trained: Mapping[str, Tensor], keep_head: bool = True) -> None:
    """Load trained weights, resizing what depends on the image's size by the model's own rule.

    The classifier stays new where it has other classes, if `keep_head`. WeightsError names a tensor
    that does not fit.
    """
    adapt = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    state = _windows_resized(trained, net)
    state = dict(adapt(state, net) if adapt else state)
    head = {name for name, module in net.named_modules() if module is _classifier(net)}
    for name, tensor in net.state_dict().items():
        if name not in state or state[name].shape != tensor.shape:
            if not (keep_head and name.rpartition(".")[0] in head):
                found = tuple(state[name].shape) if name in state else "nothing"
                raise WeightsError(
                    f"{name} is of shape {tuple(tensor.shape)}, and there is {found}"
                )
            state[name] = tensor
    if superfluous := state.keys() - net.state_dict().keys():
        raise WeightsError(f"{sorted(superfluous)[0]} belongs to another model")
    net.load_state_dict(state)


def _windows_resized(trained: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Swin's tables of relative positions, ((2w-1)², heads), for windows of another side w.

    Bicubic, as Swin's own fine-tuning does (microsoft/Swin-Transformer issue 58, utils.py). timm
    would interpolate on a geometric grid instead, with indexing that torch is about to change.
    """
    state = dict(trained)
    for name, own in net.state_dict().items():
        if name.endswith("relative_position_bias_table") and name in state:
            sides = [isqrt(len(table)) for table in (state[name], own)]
            plane = state[name].T.reshape(1, -1, sides[0], sides[0])
            if sides[0] != sides[1]:
                plane = F.interpolate(plane, size=sides[1], mode="bicubic", align_corners=False)
                state[name] = plane.flatten(2)[0].T.contiguous()
    return state


def _classifier(net: nn.Module) -> object:
    get = getattr(net, "get_classifier", None)
    return get() if get else None
