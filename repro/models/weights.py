"""Weights of a safetensors file into a network, whichever wrapper their names come from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

# DistributedDataParallel, torch.compile, and what training scripts nest a state in.
WRAPPERS = ("module.", "_orig_mod.", "state_dict.", "model_state_dict.", "model.")
_SHOWN = 3  # names in a message


class WeightsError(ValueError):
    """Weights that cannot be used; one line."""


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. WeightsError if it is none, or one is not finite."""
    try:
        state: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} is not a safetensors file ({error})") from error
    if broken := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise WeightsError(f"{path} has NaN or infinite weights: {_some(broken)}")
    return state


def load(net: nn.Module, path: Path) -> None:
    """Load a file into the network. WeightsError unless every tensor fits and is finite."""
    own = net.state_dict()
    state = max(_unwrapped(read(path)), key=lambda one: len(one.keys() & own.keys()))
    if wrong := _misfit(state, own):
        raise WeightsError(f"{path} has weights of another model: {wrong}")
    net.load_state_dict(state)


def _unwrapped(state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors, and those within each wrapper, by their names there."""
    yield dict(state)
    for prefix in WRAPPERS:
        inner = {
            name.removeprefix(prefix): tensor
            for name, tensor in state.items()
            if name.startswith(prefix)
        }
        if inner:
            yield from _unwrapped(inner)


def _misfit(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """How the tensors differ from those of the network; '' if they fit."""
    other = [
        f"{name} is {_kind(state[name])}, not {_kind(own[name])}"
        for name in own.keys() & state.keys()
        if _kind(state[name]) != _kind(own[name])
    ]
    found = [
        f"missing {_some(own.keys() - state.keys())}" * (not own.keys() <= state.keys()),
        f"unexpected {_some(state.keys() - own.keys())}" * (not state.keys() <= own.keys()),
        _some(other),
    ]
    return "; ".join(filter(None, found))


def _kind(tensor: Tensor) -> str:
    number = "floats" if tensor.is_floating_point() else "integers"
    return f"{number} {tuple(tensor.shape)}"


def _some(names: Collection[str]) -> str:
    """The first few names, and how many more there are."""
    shown = [name[:80] for name in sorted(names)[:_SHOWN]]
    more = len(names) - len(shown)
    return ", ".join(shown) + f" and {more} more" * bool(more)
