"""Counter-based random numbers, without a generator.

A number is a hash of (seed, epoch, sample index, stream, position), so an interrupted run has the
numbers of the uninterrupted one, whatever the order, batch, process or device of a sample.
The hash is splitmix64 (Steele, Lea & Flood 2014): the n-th number of a key is the n-th output of
the generator seeded with that key. It is int64 arithmetic, which wraps around on every device.
"""

from functools import reduce
from math import pi

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 / golden ratio, as torch's signed integer
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MULTIPLIER_2 = 0x94D049BB133111EB - (1 << 64)


def sample_keys(seed: int, epoch: Tensor | int, index: Tensor) -> Tensor:
    """One key per sample and epoch, int64 (B,).

    `index` (B,) is the sample's index in the dataset; `epoch` is a number or (B,), because a batch
    may straddle two epochs. The keys are on the device of `index`.
    """
    state = index.new_full((), derive_seed(seed), dtype=torch.int64)
    return _absorb(_absorb(state, epoch), index)


def uniform(keys: Tensor, stream: int, count: int = 1) -> Tensor:
    """float32 (B, count) in [0, 1), multiples of 2^-24; independent between keys and streams."""
    return unit_interval(bits(keys[:, None], stream, _positions(keys, count)))


def normal(keys: Tensor, stream: int, count: int = 1) -> Tensor:
    """float32 (B, count) from N(0, 1)."""
    return gaussian(bits(keys[:, None], stream, _positions(keys, count)))


def derive_seed(*numbers: int) -> int:
    """A 63-bit hash of int64 numbers, for instance to seed a `torch.Generator`."""
    state = torch.tensor(len(numbers), dtype=torch.int64)
    return int(reduce(_absorb, numbers, state)) & (2**63 - 1)


def bits(keys: Tensor, stream: int, position: Tensor) -> Tensor:
    """64 random bits, int64, at positions (below 2^32) of a stream; keys and position broadcast."""
    return _absorb(keys, position + ((stream << 32) + 1))


def unit_interval(random_bits: Tensor) -> Tensor:
    """The top 24 bits, all that a float32 mantissa holds, as float32 in [0, 1)."""
    return _shift_right(random_bits, 40).to(torch.float32) * 2.0**-24


def gaussian(random_bits: Tensor) -> Tensor:
    """Box-Muller transform: radius from the upper 32 bits, angle from the lower.

    In float64, so that log and cos of different libraries round to the same float32, except about
    one in ten million.
    """
    radius_draw = (_shift_right(random_bits, 32) + 1).to(torch.float64) * 2.0**-32  # (0, 1]
    turn = (random_bits & 0xFFFFFFFF).to(torch.float64) * 2.0**-32
    return ((-2 * radius_draw.log()).sqrt() * (2 * pi * turn).cos()).to(torch.float32)


def _positions(keys: Tensor, count: int) -> Tensor:
    return torch.arange(count, device=keys.device)


def _absorb(state: Tensor, number: Tensor | int) -> Tensor:
    """splitmix64's output `number` steps after `state`."""
    mixed = (
        state + number * _GOLDEN if isinstance(number, Tensor) else state + _wrap(number * _GOLDEN)
    )
    mixed = (mixed ^ _shift_right(mixed, 30)) * _MULTIPLIER_1
    mixed = (mixed ^ _shift_right(mixed, 27)) * _MULTIPLIER_2
    return mixed ^ _shift_right(mixed, 31)


def _shift_right(number: Tensor, places: int) -> Tensor:
    """Logical shift: torch's `>>` on int64 repeats the sign, which the mask removes."""
    return (number >> places) & ((1 << (64 - places)) - 1)


def _wrap(number: int) -> int:
    """A Python integer wrapped around to int64."""
    return (number + 2**63) % 2**64 - 2**63
