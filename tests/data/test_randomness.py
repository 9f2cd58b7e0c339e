"""The hash behind all randomness: fixed, uniform, and independent where it should be."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from repro.data.randomness import (
    bits,
    derive_seed,
    gaussian,
    normal,
    sample_keys,
    uniform,
    unit_interval,
)
from tests import DEVICES

INT64 = st.integers(-(2**63), 2**63 - 1)
COUNT = 1 << 17

KEYS = [-2141572718860128918, -4265203596777250331]
UNIFORM = [
    [0.9794009327888489, 0.08010458946228027, 0.7317901849746704],
    [0.7611752152442932, 0.6041081547737122, 0.6490458250045776],
]
NORMAL = [
    [-0.021895799785852432, -0.9106997847557068],
    [0.2837132215499878, -0.8438045978546143],
]
SEEDS = [0, 6238072747940578789, 3671897432547045318]


def splitmix64(state: int, number: int) -> int:
    """The published algorithm in Python's unbounded integers, as an unsigned number."""
    z = (state + number * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def unsigned(values: Tensor) -> list[int]:
    return [int(value) % 2**64 for value in values.flatten()]


def keys(count: int = COUNT, seed: int = 0, epoch: int = 0) -> Tensor:
    return sample_keys(seed, epoch, torch.arange(count))


def test_bits_are_the_published_outputs_of_splitmix64() -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert unsigned(bits(torch.tensor(1234567), 0, torch.arange(3))) == published


@given(INT64, INT64, INT64, st.integers(0, 2**20), st.integers(0, 2**32 - 1))
def test_every_step_is_splitmix64_in_unbounded_integers(
    seed: int, epoch: int, index: int, stream: int, position: int
) -> None:
    state = splitmix64(splitmix64(splitmix64(1, seed) % 2**63, epoch), index)
    key = sample_keys(seed, epoch, torch.tensor([index]))
    assert unsigned(key) == [state]
    expected = splitmix64(state, (stream << 32) + position + 1)
    random_bits = bits(key, stream, torch.tensor([position]))
    assert unsigned(random_bits) == [expected]
    assert unit_interval(random_bits).item() == (expected >> 40) / 2**24


def test_golden_values() -> None:
    """These are in every result ever recorded: if they change, no run repeats."""
    golden = sample_keys(7, 3, torch.tensor([0, 49_999]))
    assert golden.tolist() == KEYS
    assert uniform(golden, 2, 3).tolist() == UNIFORM
    assert normal(golden, 2, 2).tolist() == NORMAL
    assert [derive_seed(), derive_seed(0), derive_seed(1, -2, 3)] == SEEDS


@settings(deadline=None)
@given(st.permutations(range(20)), st.integers(0, 5), INT64)
def test_the_batch_has_no_influence(order: list[int], stream: int, seed: int) -> None:
    index = torch.tensor(order)
    straight, permuted = sample_keys(seed, 4, torch.arange(20)), sample_keys(seed, 4, index)
    assert torch.equal(permuted, straight[index])
    for draw in (uniform, normal):
        assert torch.equal(draw(permuted, stream, 7), draw(straight, stream, 7)[index])
        assert torch.equal(draw(straight[3:4], stream, 3), draw(straight, stream, 7)[3:4, :3])


def test_a_batch_may_straddle_epochs() -> None:
    index, epoch = torch.tensor([8, 9, 0, 1]), torch.tensor([4, 4, 5, 5])
    together = sample_keys(1, epoch, index)
    assert torch.equal(together[:2], sample_keys(1, 4, index[:2]))
    assert torch.equal(together[2:], sample_keys(1, 5, index[2:]))


def test_keys_do_not_collide() -> None:
    every = torch.cat([keys(50_000, seed, epoch) for seed in range(3) for epoch in range(5)])
    assert len(set(every.tolist())) == len(every)


@pytest.mark.parametrize("stream", [0, 1, 1000])
def test_uniform_by_chi_square_and_kolmogorov(stream: int) -> None:
    draws = uniform(keys(), stream)[:, 0].to(torch.float64)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = torch.histc(draws, bins=256, min=0, max=1)
    chi_square = ((counts - COUNT / 256) ** 2 / (COUNT / 256)).sum()
    assert abs(chi_square - 255) < 4 * math.sqrt(2 * 255)
    assert kolmogorov(draws) < 1.95  # p = 0.001


def test_every_bit_is_fair() -> None:
    random_bits = bits(keys(), 3, torch.tensor(0))
    ones = torch.stack([(random_bits >> place & 1).sum() for place in range(64)])
    assert (ones - COUNT / 2).abs().max() < 4.5 * math.sqrt(COUNT) / 2


def test_normal_by_moments_and_kolmogorov() -> None:
    draws = normal(keys(), 3)[:, 0].to(torch.float64)
    assert kolmogorov(torch.special.ndtr(draws)) < 1.95
    for power, moment, spread in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs((draws**power).mean() - moment) < 4 * math.sqrt(spread / COUNT)


NEIGHBOURS = {
    "index": (uniform(keys(), 0), uniform(keys(COUNT + 1)[1:], 0)),
    "epoch": (uniform(keys(), 0), uniform(keys(epoch=1), 0)),
    "seed": (uniform(keys(), 0), uniform(keys(seed=1), 0)),
    "stream": (uniform(keys(), 0), uniform(keys(), 1)),
    "position": (uniform(keys(), 0), uniform(keys(), 0, 2)[:, 1:]),
    "normal": (normal(keys(), 0), normal(keys(), 0, 2)[:, 1:]),
    "seed against epoch": (uniform(keys(epoch=1), 0), uniform(keys(seed=1), 0)),
}


@pytest.mark.parametrize("neighbour", NEIGHBOURS)
def test_neighbours_are_independent(neighbour: str) -> None:
    one, other = NEIGHBOURS[neighbour]
    for power in (1, 2):  # of the deviations: correlated values, correlated sizes
        a, b = ((x - x.mean()) ** power for x in (one[:, 0], other[:, 0]))
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 4 / math.sqrt(COUNT)


def test_the_extreme_bits() -> None:
    lowest, highest = torch.tensor([0]), torch.tensor([-1])
    assert unit_interval(lowest).item() == 0
    assert unit_interval(highest).item() == 1 - 2**-24
    assert gaussian(lowest).item() == pytest.approx(math.sqrt(2 * 32 * math.log(2)))
    assert gaussian(highest).item() == 0


@given(st.lists(INT64, max_size=4), st.lists(INT64, max_size=4))
def test_seed_of_tells_lists_apart(one: list[int], other: list[int]) -> None:
    assert 0 <= derive_seed(*one) < 2**63
    torch.Generator().manual_seed(derive_seed(*one))
    assert (derive_seed(*one) == derive_seed(*other)) == (one == other)


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_here_draws_the_same(device: str) -> None:
    there = sample_keys(0, 0, torch.arange(COUNT, device=device))
    assert torch.equal(there.cpu(), keys())
    assert torch.equal(uniform(there, 1, 4).cpu(), uniform(keys(), 1, 4))
    assert (normal(there, 1, 4).cpu() != normal(keys(), 1, 4)).float().mean() < 1e-5


def kolmogorov(draws: Tensor) -> float:
    """sqrt(n) times the largest distance between the draws' distribution and the uniform one."""
    steps = torch.arange(len(draws), dtype=torch.float64) / len(draws)
    return float((draws.sort().values - steps).abs().max()) * math.sqrt(len(draws))
