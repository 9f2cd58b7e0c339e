"""Load the weights of a safetensors file into a network, whatever wrapper prefixes their names."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

# DistributedDataParallel, torch.compile, and the usual keys of training scripts.
WRAPPERS = ("module.", "_orig_mod.", "state_dict.", "model_state_dict.", "model.")
_MAX_NAMES = 3  # names in a message


class WeightsError(ValueError):
    """Unusable weights; the message is one line."""


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. WeightsError for another file or non-finite values."""
    try:
        state: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} is not a safetensors file ({error})") from error
    if broken := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise WeightsError(f"{path} has NaN or infinite weights: {_summarize(broken)}")
    return state


def load(net: nn.Module, path: Path) -> None:
    """Load a file into the network. WeightsError unless every tensor fits and is finite."""
    own = net.state_dict()
    state = max(_unwrap(read(path)), key=lambda state: len(state.keys() & own.keys()))
    if mismatch := _mismatch(state, own):
        raise WeightsError(f"{path} has weights of another model: {mismatch}")
    net.load_state_dict(state)


def _unwrap(state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors, and those of each wrapper without its prefix."""
    yield dict(state)
    for prefix in WRAPPERS:
        inner = {
            name.removeprefix(prefix): tensor
            for name, tensor in state.items()
            if name.startswith(prefix)
        }
        if inner:
            yield from _unwrap(inner)


def _mismatch(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """How the tensors differ from those of the network; '' if they fit."""
    other = [
        f"{name} is {_describe(state[name])}, not {_describe(own[name])}"
        for name in own.keys() & state.keys()
        if _describe(state[name]) != _describe(own[name])
    ]
    problems = [
        f"missing {_summarize(own.keys() - state.keys())}" * (not own.keys() <= state.keys()),
        f"unexpected {_summarize(state.keys() - own.keys())}" * (not state.keys() <= own.keys()),
        _summarize(other),
    ]
    return "; ".join(filter(None, problems))


def _describe(tensor: Tensor) -> str:
    dtype = "floats" if tensor.is_floating_point() else "integers"
    return f"{dtype} {tuple(tensor.shape)}"


def _summarize(names: Collection[str]) -> str:
    """The first few names and the number of others."""
    shown = [name[:80] for name in sorted(names)[:_MAX_NAMES]]
    more = len(names) - len(shown)
    return ", ".join(shown) + f" and {more} more" * bool(more)
