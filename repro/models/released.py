"""Pretrained weights of timm by their tag, from a folder, the hub's cache, or the hub.

Usable on its own: `load_released(net, read_released("swin_tiny_patch4_window7_224.ms_in1k"))`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from math import isqrt
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data import hub
from repro.data.hub import WeightsNotFound
from repro.models.nest import NesT
from repro.models.nest_flax import read_timm
from repro.models.weights import WeightsError, read


def read_released(tag: str, folder: Path | None = None) -> dict[str, Tensor]:
    """The tensors of timm's weights `tag`, by name.

    From `folder`/<tag>.safetensors if a folder is given, else from the hub's cache, after a
    download if necessary. Raises WeightsNotFound.
    """
    try:
        timm.get_pretrained_cfg(tag, allow_unregistered=False)
    except RuntimeError as error:
        raise WeightsNotFound(f"timm has no weights {tag!r}: {error}") from error
    path = hub.find(tag, folder)
    try:
        return read(path)
    except WeightsError as error:
        source = path if folder else "the hub's cache"
        raise WeightsNotFound(f"{source}: {error}; fetch {hub.weights_url(tag)}") from error


def load_released(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load the result of `read_released` into a model of that architecture and image size.

    WeightsError names a tensor that does not fit.
    """
    if isinstance(net, NesT):  # the converted weights of timm's port
        state = read_timm(state)[1]
    load_pretrained(net, state, keep_head=False)


def load_pretrained(net: nn.Module, trained: Mapping[str, Tensor], keep_head: bool = True) -> None:
    """Load trained weights, resized to the model's image size by its `checkpoint_filter_fn`.

    With `keep_head`, a classifier with another number of classes keeps the model's own weights.
    WeightsError names a tensor that does not fit.
    """
    adapt = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    state = _resize_window_tables(trained, net)
    state = dict(adapt(state, net) if adapt else state)
    head = {name for name, module in net.named_modules() if module is _classifier(net)}
    for name, tensor in net.state_dict().items():
        if name not in state or state[name].shape != tensor.shape:
            if not (keep_head and name.rpartition(".")[0] in head):
                actual = f"has shape {tuple(state[name].shape)}" if name in state else "is missing"
                raise WeightsError(f"{name} {actual}, expected {tuple(tensor.shape)}")
            state[name] = tensor
    if unexpected := state.keys() - net.state_dict().keys():
        raise WeightsError(f"{sorted(unexpected)[0]} belongs to another model")
    net.load_state_dict(state)


@torch.no_grad()
def zero_head(net: nn.Module) -> None:
    """Set the classifier to zero. ValueError for a model without `get_classifier`."""
    head = _classifier(net)
    if not isinstance(head, nn.Module):
        raise ValueError(f"{type(net).__name__} has no classifier to set to zero")
    for parameter in head.parameters():
        parameter.zero_()


def _resize_window_tables(trained: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Resize Swin's relative position tables, ((2w-1)², heads), to windows of another side w.

    Bicubic, as in Swin's own fine-tuning (microsoft/Swin-Transformer issue 58, utils.py). timm
    would interpolate on a geometric grid, with indexing that torch is about to change.
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
