"""Transposed NesT and TransGAN: sizes, un-samplings, who sees whom, kernels of attention."""

import copy
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from repro.models import attention as attention_module
from repro.models.aggregation import blockify, unblockify
from repro.models.attention import Attention, Kernel, attend, kernel
from repro.models.nest import NesT
from repro.models.transgan import TransGAN
from repro.models.transposed_nest import TransposedNesT
from repro.models.unsampling import OPERATORS, make_unsampling, pixel_shuffle

M = TypeVar("M", bound=nn.Module)

NAMES = [*OPERATORS]
CONVS = [name for name in NAMES if "conv" in name]
# Three hierarchies of 1, 4 and 16 blocks of 4×4 tokens, on 16×16 pixels.
SMALL: dict[str, Any] = {
    "img_size": 16, "latent_dim": 6, "depths": (1, 2, 1), "embed_dims": (32, 16, 8),
    "num_heads": (4, 2, 1),
}  # fmt: skip
# Stages of 3×3, 6×6 and 12×12 pixels.
TINY_GAN: dict[str, Any] = {
    "img_size": 12, "latent_dim": 5, "depths": (2, 1, 2), "embed_dims": (64, 16, 4),
    "num_heads": 2,
}  # fmt: skip

operators = pytest.mark.parametrize("name", NAMES)


@torch.no_grad()
def shaken(model: M) -> M:
    """In float64, with values that let no norm, bias or embedding hide a mistake."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.double().named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if parameter.ndim == 1:
            parameter.copy_(0.3 * noise + ("norm" in name and name.endswith("weight")))
        else:
            parameter.copy_(noise / math.sqrt(parameter[0].numel() if "pos" not in name else 1))
    return model


def transposed(**overrides: Any) -> TransposedNesT:
    return shaken(TransposedNesT(**{**SMALL, **overrides}))


def transgan(**overrides: Any) -> TransGAN:
    return shaken(TransGAN(**{**TINY_GAN, **overrides}))


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def size(name: str, **overrides: Any) -> int:
    with torch.device("meta"):
        model = timm.create_model(name, **overrides)
    return sum(parameter.numel() for parameter in model.parameters())


# Sizes.

COUNTS = {  # of the widths of transposed_nest_64, of its _c, of its _b, with each un-sampling
    "pixel_shuffle": (74_417_987, 74_514_051, 60_562_467),
    "pixel_shuffle_conv": (75_176_067, 75_890_307, 61_336_611),
    "linear_pixel_shuffle": (75_779_907, 77_097_219, 62_016_003),
    "conv_pixel_shuffle": (86_789_955, 99_117_315, 74_402_307),
    "nearest": (74_745_987, 75_030_147, 60_852_771),
    "nearest_conv": (77_498_499, 80_535_171, 63_949_347),
    "conv_nearest": (77_498_499, 80_535_171, 63_949_347),
}


@operators
def test_exact_sizes_with_every_unsampling(name: str) -> None:
    entries = ("transposed_nest_64", "transposed_nest_64_c", "transposed_nest_64_b")
    assert tuple(size(entry, unsampling=name) for entry in entries) == COUNTS[name]


def test_the_entry_points_are_of_the_papers_size() -> None:
    """Figure 5, right: 74.4 M, within two thousandths."""
    entries = ("transposed_nest_64", "transposed_nest_64_b", "transposed_nest_64_c")
    assert [size(entry) for entry in entries] == [74_417_987, 74_402_307, 74_514_051]


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"img_size": 64, "embed_dims": (128, 64, 32, 16), "depths": (1, 1, 1, 1),
          "num_heads": (4, 2, 1, 1)}, 1_307_203),
        ({"img_size": 32, "embed_dims": (96, 48, 24), "depths": (1, 1, 1),
          "num_heads": (3, 2, 1)}, 797_475),
    ],
)  # fmt: skip
def test_small_ones_by_overrides(options: dict[str, Any], parameters: int) -> None:
    options = {"latent_dim": 64, "unsampling": "conv_pixel_shuffle", **options}
    assert size("transposed_nest_64", **options) == parameters


@pytest.mark.parametrize(
    ("latent_dim", "published"), [(256, 82_595_571), (128, 74_206_963), (512, 99_372_787)]
)
def test_transgan_is_as_large_as_published_but_for_what_is_not_used(
    latent_dim: int, published: int
) -> None:
    unused = sum(p.numel() for p in nn.BatchNorm2d(1024).parameters())
    assert size("transgan_64", latent_dim=latent_dim) + unused == published
    assert size("transgan_64") == 82_593_523


@pytest.mark.parametrize(
    ("name", "widths", "heads"),
    [
        ("transposed_nest_64", {32}, {32, 8, 2}),
        ("transposed_nest_64_b", {32}, {24, 12, 6, 3}),
        ("transposed_nest_64_c", {32}, {32, 16, 8, 4}),
        ("transgan_64", {256, 64, 16, 4}, {4}),
    ],
)
def test_heads_which_no_size_tells(name: str, widths: set[int], heads: set[int]) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    attentions = [m for m in model.modules() if isinstance(m, Attention)]
    assert {m.head_dim for m in attentions} == widths
    assert {m.query_heads for m in attentions} == {m.key_heads for m in attentions} == heads
    assert model(torch.empty(2, 256, device="meta")).shape == (2, 3, 64, 64)


# Un-sampling.


@operators
@given(
    height=st.integers(1, 4), width=st.integers(1, 4),
    quarter=st.integers(1, 3), dim_out=st.integers(1, 4), images=st.integers(1, 2),
)  # fmt: skip
@settings(max_examples=12)
def test_each_unsampling_is_what_its_name_says(
    name: str, height: int, width: int, quarter: int, dim_out: int, images: int
) -> None:
    """Its words, in order, on (B, C, H, W) and by torch's functions."""
    module = shaken(make_unsampling(name, 4 * quarter, dim_out))
    plane = random(images, height, width, 4 * quarter)
    weights = {word.split(".")[-1]: p for word, p in module.named_parameters()}
    x = plane.permute(0, 3, 1, 2)
    for word in name.replace("pixel_shuffle", "shuffle").split("_"):
        if word == "shuffle":
            x = F.pixel_shuffle(x, 2)
        elif word == "nearest":
            x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        elif word == "conv":
            assert weights["weight"].shape[2:] == (3, 3)
            x = F.conv2d(x, weights["weight"], weights["bias"], padding=1)
        else:
            assert word == "linear"
            x = F.conv2d(x, weights["weight"][:, :, None, None], weights["bias"])
    if name == "nearest" or (name == "pixel_shuffle" and quarter != dim_out):  # in the end
        x = F.conv2d(x, weights["weight"][:, :, None, None], weights["bias"])
    found = module(plane)
    assert found.shape == (images, 2 * height, 2 * width, dim_out)
    torch.testing.assert_close(found, x.permute(0, 2, 3, 1))


def test_pixel_shuffle_lays_four_channels_out_as_a_square() -> None:
    x = random(2, 3, 5, 8)
    y = pixel_shuffle(x)
    for c in range(2):
        for i in range(2):
            for j in range(2):
                assert torch.equal(y[:, i::2, j::2, c], x[..., 4 * c + 2 * i + j])
    assert torch.equal(y, F.pixel_shuffle(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1))
    assert not list(make_unsampling("pixel_shuffle", 8, 2).parameters())


# Transposed NesT.


@pytest.mark.parametrize("img_size", [16, 12, 4])
@operators
@torch.no_grad()
def test_images_are_in_range_and_of_their_size(name: str, img_size: int) -> None:
    generator = transposed(img_size=img_size, unsampling=name, out_chans=2)
    images = generator(random(3, 6))
    assert images.shape == (3, 2, img_size, img_size)
    assert images.abs().max() <= 1
    side = img_size // 4
    assert generator.block_side == side
    maps = generator.hierarchies(random(3, 6))
    assert [m.shape for m in maps] == [
        (3, side, side, 32),
        (3, 2 * side, 2 * side, 16),
        (3, 4 * side, 4 * side, 8),
    ]
    assert torch.equal(generator.decode(maps[-1]), images)


@torch.no_grad()
def test_tanh_holds_the_range_and_is_the_last() -> None:
    generator = transposed()
    before = generator.head(generator.norm(generator.hierarchies(random(4, 6))[-1]))
    assert before.abs().max() > 1.5
    torch.testing.assert_close(generator(random(4, 6)), before.tanh().permute(0, 3, 1, 2))


@torch.no_grad()
def test_the_whole_generator_block_by_block() -> None:
    """Each block by itself, as a sequence of tokens, put into its place on the plane by hand."""
    generator, latents = transposed(), random(2, 6)
    tokens = generator.latent_embed(latents).reshape(2, 16, 32)
    plane = tokens.reshape(2, 4, 4, 32)
    for i in range(3):
        rows, finished = 2**i, torch.empty_like(plane)
        for row in range(rows):
            for column in range(rows):
                place = (
                    slice(None),
                    slice(4 * row, 4 * row + 4),
                    slice(4 * column, 4 * column + 4),
                )
                block = plane[place].flatten(1, 2) + generator.pos_embed[i][:, row * rows + column]
                z = generator.transformers[i](block[:, None])[:, 0]
                finished[place] = z.unflatten(1, (4, 4))
        plane = generator.unsamplings[i](finished) if i < 2 else finished
    norm, head = generator.norm, generator.head
    pixels = F.layer_norm(plane, (8,), norm.weight, norm.bias, eps=1e-6) @ head.weight.T
    expected = (pixels + head.bias).tanh().permute(0, 3, 1, 2)
    torch.testing.assert_close(generator(latents), expected)


@torch.no_grad()
def changed_by(generator: TransposedNesT, hierarchy: int, block: int) -> list[Tensor]:
    """Which pixels of every map, and of the image, change with a block's tokens at an entry."""
    other, latents = copy.deepcopy(generator), random(1, 6)
    other.pos_embed[hierarchy][:, block] += random(16, generator.pos_embed[hierarchy].shape[-1])
    ours, theirs = (
        [*(m.permute(0, 3, 1, 2) for m in g.hierarchies(latents)), g(latents)]
        for g in (generator, other)
    )
    return [((a - b).abs() > 1e-9).any(1)[0] for a, b in zip(ours, theirs, strict=True)]


def rectangle(side: int, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    expected = torch.zeros(side, side, dtype=torch.bool)
    expected[slice(*rows), slice(*columns)] = True
    return expected


@operators
@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 2), (3, 1)])
def test_blocks_are_independent_within_a_hierarchy(name: str, row: int, column: int) -> None:
    _, before, last, image = changed_by(transposed(unsampling=name), 2, 4 * row + column)
    its_own = rectangle(16, (4 * row, 4 * row + 4), (4 * column, 4 * column + 4))
    assert not before.any()
    assert torch.equal(last, its_own)
    assert torch.equal(image, its_own)


@operators
def test_a_convolution_crosses_blocks_on_the_image_plane_and_nothing_else_does(name: str) -> None:
    first, middle, last, image = changed_by(transposed(unsampling=name), 1, 0)
    assert not first.any()
    assert torch.equal(middle, rectangle(8, (0, 4), (0, 4)))
    reach = 12 if name in CONVS else 8  # a pixel over the border, then to all of that block
    assert torch.equal(last, rectangle(16, (0, reach), (0, reach)))
    assert torch.equal(image, last)


@torch.no_grad()
def test_it_is_the_mirror_of_nest() -> None:
    """The same layers, embeddings and blocks, with the order of the hierarchies reversed."""
    nest = NesT(
        img_size=16, depths=(1, 2, 1), embed_dims=(8, 16, 32), num_heads=(1, 2, 4),
        attention="multi_head",
    )  # fmt: skip
    generator = TransposedNesT(**SMALL)
    assert generator.block_side == nest.block_side
    for i in range(3):
        generator.transformers[i].load_state_dict(nest.transformers[2 - i].state_dict())
        x = 10 * torch.randn(2, 4, 16, SMALL["embed_dims"][i])  # GELU's two forms differ
        assert torch.equal(generator.transformers[i](x), nest.transformers[2 - i].eval()(x))
        assert generator.pos_embed[i].shape == nest.pos_embed[2 - i].shape
    maps = [m.shape for m in nest.hierarchies(torch.zeros(2, 3, 16, 16))]
    assert [m.shape for m in generator.hierarchies(torch.zeros(2, 6))] == maps[::-1]
    blocks = torch.arange(16.0)[None, :, None, None].expand(1, 16, 16, 1)
    plane = unblockify(blocks, 4)
    assert plane[0, 4:8, 8:12].unique().tolist() == [6]  # the third of the second row of four
    assert torch.equal(blockify(plane, 4), blocks)


@pytest.mark.parametrize("attention", ["multi_head", "multi_query"])
@operators
def test_gradients_reach_every_parameter(name: str, attention: str) -> None:
    generator = transposed(unsampling=name, attention=attention)
    latents = random(2, 6).requires_grad_()
    torch.autograd.backward((generator(latents) * random(2, 3, 16, 16)).sum())
    for parameter in [latents, *generator.parameters()]:
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


def test_initial_values_are_nests() -> None:
    torch.manual_seed(0)
    generator = TransposedNesT(**{**SMALL, "embed_dims": (256, 64, 64)}, unsampling="nearest_conv")
    parameters = dict(generator.named_parameters())
    weights = torch.cat([p.flatten() for p in parameters.values() if p.ndim > 1])
    assert weights.abs().max() <= 0.04
    assert weights.std().item() == pytest.approx(0.017593, rel=0.01)
    for word, parameter in parameters.items():
        if parameter.ndim == 1:
            is_scale = "norm" in word and word.endswith("weight")
            assert (parameter == (1 if is_scale else 0)).all()


@pytest.mark.parametrize("make", [transposed, transgan])
@torch.no_grad()
def test_an_image_depends_on_its_latent_alone(make: Any) -> None:
    generator = make().train()  # nothing is random, and nothing is normed over a batch
    latents = random(4, generator.latent_dim)
    images = generator(latents)
    alone = torch.cat([generator(z[None]) for z in latents])
    torch.testing.assert_close(images, alone)
    assert (images[0] - images[1]).abs().max() > 0.01


# TransGAN.


@torch.no_grad()
def published(g: TransGAN, latents: Tensor, depths: Sequence[int], heads: int) -> Tensor:
    """The generator of May 2021, in numpy and from its description."""
    w = {name: parameter.numpy() for name, parameter in g.state_dict().items()}
    erf = np.vectorize(math.erf)

    def norm(x: Any, name: str) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: Any, name: str) -> Any:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def attention(x: Any, name: str) -> Any:
        b, n, c = x.shape
        qkv = (x @ w[f"{name}.qkv.weight"].T).reshape(b, n, 3, heads, c // heads)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # each (b, heads, n, c / heads)
        scores = np.exp(q @ k.swapaxes(-1, -2) * (c // heads) ** -0.5)
        y = scores / scores.sum(-1, keepdims=True) @ v
        return linear(y.transpose(0, 2, 1, 3).reshape(b, n, c), f"{name}.proj")

    side = g.img_size // 2 ** (len(depths) - 1)
    x = linear(latents.numpy(), "latent_embed").reshape(len(latents), side**2, -1)
    for stage, depth in enumerate(depths):
        if stage:  # pixel shuffle of (b, c, h, w)
            b, _, c = x.shape
            squares = x.transpose(0, 2, 1).reshape(b, c // 4, 2, 2, side, side)
            side *= 2
            x = squares.transpose(0, 1, 4, 2, 5, 3).reshape(b, c // 4, side**2).transpose(0, 2, 1)
        x = x + w[f"pos_embed.{stage}"][0]
        for i in range(depth):
            layer = f"transformers.{stage}.{i}"
            x = x + attention(norm(x, f"{layer}.norm1"), f"{layer}.attn")
            h = linear(norm(x, f"{layer}.norm2"), f"{layer}.mlp.fc1")
            x = x + linear(h * 0.5 * (1 + erf(h / math.sqrt(2))), f"{layer}.mlp.fc2")
    rgb = linear(x, "head").transpose(0, 2, 1)
    return torch.from_numpy(rgb.reshape(len(latents), -1, side, side))


@pytest.mark.parametrize("heads", [1, 2, 4])
@torch.no_grad()
def test_transgan_equals_the_published_generator(heads: int) -> None:
    generator, latents = transgan(num_heads=heads), random(2, 5)
    generator.latent_embed.weight.mul_(0.05)  # small tokens, where the eps of a norm shows
    generator.pos_embed[0].mul_(0.02)
    expected = published(generator, latents, TINY_GAN["depths"], heads)
    torch.testing.assert_close(generator(latents), expected)
    assert generator(latents).abs().max() > 1  # no tanh


@torch.no_grad()
def test_in_transgan_every_token_sees_all() -> None:
    generator, latents = transgan(), random(1, 5)
    other = copy.deepcopy(generator)
    other.pos_embed[-1][0, 0, 7] += random(4)
    changed = (generator(latents) - other(latents)).abs().amax(1)[0]
    assert (changed > 1e-9).all()


def test_gradients_reach_every_parameter_of_transgan() -> None:
    generator = transgan()
    torch.autograd.backward((generator(random(2, 5)) * random(2, 3, 12, 12)).sum())
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0
        assert not name.endswith("qkv.bias")


def test_initial_values_of_transgan_are_the_published() -> None:
    torch.manual_seed(0)
    generator = TransGAN(img_size=16, latent_dim=64, depths=(1, 1), embed_dims=(256, 64))
    scales = {
        "latent_embed": 64**-0.5,  # torch's own: uniform to 1/√(numbers that come in)
        "transformers.0.0.attn.qkv": 256**-0.5,
        "transformers.0.0.mlp.fc2": 1024**-0.5,
        "head": math.sqrt(6 / (64 + 3)),  # Xavier's
    }
    for name, scale in scales.items():
        weight = generator.get_submodule(name).get_parameter("weight")
        assert weight.abs().max() <= scale
        assert weight.std().item() == pytest.approx(scale / math.sqrt(3), rel=0.1)
    assert generator.pos_embed[1].std().item() == pytest.approx(0.02, rel=0.05)
    assert generator.pos_embed[1].abs().max() > 0.06  # it is not cut at two sigma


# Kernels of attention.

FLASH = "_scaled_dot_product_flash_attention_for_cpu.default"
SOFTMAX = "_softmax.default"


@pytest.fixture(autouse=True, scope="module")
def formula() -> Iterator[None]:
    """A CPU whose fused kernel is slow; test_nest.py has the choice between the two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_module, "_is_fused_fast", lambda q: q.device.type != "cpu")
        yield


class Calls(TorchDispatchMode):
    """The operations that are carried out, with the shape of their first tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if func.__name__ in (FLASH, SOFTMAX):
            self.made.append((func.__name__, tuple(args[0].shape)))
        return func(*args, **(kwargs or {}))


def calls(run: Any) -> list[tuple[str, tuple[int, ...]]]:
    mode = Calls()
    with mode:
        run()
    return mode.made


@pytest.mark.parametrize("kind", ["multi_head", "multi_query"])
def test_a_kernel_does_what_it_says(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_module, "MAX_SCORES", 3 * 9 * 9 * 5)  # five blocks
    attention, x = Attention(24, 3, kind), torch.randn(2, 4, 9, 24)
    key_heads, queries = (3, 9) if kind == "multi_head" else (1, 27)
    with kernel("fused"):
        assert calls(lambda: attention(x)) == [(FLASH, (8, key_heads, queries, 8))]
    with kernel("plain"):
        assert calls(lambda: attention(x)) == [(SOFTMAX, (8, key_heads, queries, 9))]
    pieces = [(SOFTMAX, (blocks, key_heads, queries, 9)) for blocks in (5, 3)]
    assert calls(lambda: attention(x)) == pieces
    with kernel(""):
        assert calls(lambda: attention(x)) == pieces


def test_a_cpu_always_takes_the_fused_kernel_for_long_sequences() -> None:
    """From where the scores of a single block and head no longer stay in cache."""
    for tokens, name in ((724, SOFTMAX), (725, FLASH)):  # 724² < 2¹⁹ < 725²
        q = torch.randn(1, 2, tokens, 1)
        assert [operation for operation, _ in calls(lambda q=q: attend(q, q, q))] == [name]


@pytest.mark.parametrize(
    ("blocks", "heads", "queries", "keys"),
    [
        (3, 3, 196, 196), (2, 16, 196, 196), (2, 4, 784, 196), (2, 16, 196, 784),  # ImageNet
        (64, 1, 48, 16), (1, 1, 12 * 64, 64), (16, 32, 64, 64), (64, 2, 64, 64),  # CIFAR, 64 px
    ],
)  # fmt: skip
@torch.no_grad()
def test_nests_shapes_keep_the_plain_formula(
    blocks: int, heads: int, queries: int, keys: int
) -> None:
    q, k = torch.randn(blocks, heads, queries, 2), torch.randn(blocks, heads, keys, 2)
    at_once = max(1, 2**19 // (heads * queries * keys))
    made = calls(lambda: attend(q, k, k))
    assert {name for name, _ in made} == {SOFTMAX}
    assert [shape[0] for _, shape in made] == [len(piece) for piece in q.split(at_once)]


@given(
    blocks=st.integers(1, 5), heads=st.integers(1, 3), queries=st.integers(1, 7),
    keys=st.integers(1, 7), at_once=st.integers(1, 400),
)  # fmt: skip
@settings(max_examples=60)
def test_all_kernels_compute_the_same(
    blocks: int, heads: int, queries: int, keys: int, at_once: int
) -> None:
    tensors = [random(blocks, heads, n, 4).requires_grad_() for n in (queries, keys, keys)]
    weights = random(blocks, heads, queries, 4).flip(0)

    def both(name: Kernel) -> tuple[Tensor, ...]:
        with pytest.MonkeyPatch.context() as patch, kernel(name):
            patch.setattr(attention_module, "MAX_SCORES", at_once)
            y = attend(*tensors)
            return y, *torch.autograd.grad((y * weights).sum(), tensors)

    for name in ("fused", "plain"):
        torch.testing.assert_close(both(name), both(""))


@pytest.mark.parametrize("make", [transposed, transgan])
@pytest.mark.parametrize("name", ["fused", "plain"])
def test_generators_are_the_same_under_every_kernel(make: Any, name: Kernel) -> None:
    generator = make().float()
    latents = random(2, generator.latent_dim).float()

    def both() -> list[Tensor]:
        images = generator(latents)
        return [images, *torch.autograd.grad(images.square().sum(), [*generator.parameters()])]

    with kernel(name):
        found = both()
        operations = {operation for operation, _ in calls(lambda: generator(latents))}
    assert operations == {FLASH if name == "fused" else SOFTMAX}
    torch.testing.assert_close(found, both(), rtol=1e-3, atol=1e-3)


def test_transgan_in_plain_makes_all_scores_of_the_batch_at_once() -> None:
    generator = transgan().float()
    with kernel("plain"):
        made = calls(lambda: generator(torch.randn(3, 5)))
    assert made == [
        (SOFTMAX, (3, 2, n, n)) for n, depth in ((9, 2), (36, 1), (144, 2)) for _ in range(depth)
    ]


def used() -> str:
    [(name, _)] = calls(lambda: attend(*torch.randn(3, 2, 1, 5, 4)))
    return name


def test_a_kernel_ends_with_its_block_and_nests() -> None:
    with pytest.raises(ZeroDivisionError), kernel("fused"):
        raise ZeroDivisionError
    assert used() == SOFTMAX
    with kernel("fused"):
        with kernel("plain"):
            assert used() == SOFTMAX
        assert used() == FLASH
        with kernel(""):
            assert used() == SOFTMAX
        assert used() == FLASH


def test_a_kernel_is_of_its_thread() -> None:
    with ThreadPoolExecutor(1) as other, kernel("fused"):
        assert other.submit(used).result() == SOFTMAX
        assert used() == FLASH


# What is refused.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unsampling": "bilinear"}, "unsampling is one of pixel_shuffle, .*, conv_nearest, "
                                     "not 'bilinear'"),
        ({"embed_dims": (32, 18, 8), "num_heads": 1},
         "unsampling 'pixel_shuffle' needs a width divisible by 4, not 18"),
        ({"embed_dims": (32, 18, 8), "num_heads": 1, "unsampling": "pixel_shuffle_conv"},
         "unsampling 'pixel_shuffle_conv' needs a width divisible by 4, not 18"),
        ({"img_size": 18}, "18 pixels .* does not divide into 4×4 blocks, .* 3 hierarchies"),
        ({"img_size": 2}, "2 pixels .* does not divide into 4×4 blocks"),
        ({"embed_dims": (32, 16)}, r"embed_dims \(32, 16\) is for 2 hierarchies, depths for 3"),
        ({"num_heads": (1, 1, 1, 1)}, "num_heads .* is for 4 hierarchies, depths for 3"),
        ({"num_heads": 5}, "a width of 32 does not divide into 5 heads"),
        ({"attention": "local"}, "not 'local'"),
        ({"gelu": "relu"}, "not 'relu'"),
        ({"pretrained": True}, "there are no weights of Transposed NesT to download"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        timm.create_model("transposed_nest_64", **{**SMALL, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dims": (64, 16, 8)}, r"divides each width by 4, unlike \(64, 16, 8\)"),
        ({"embed_dims": (64, 16)}, r"embed_dims \(64, 16\) is for 2 hierarchies, depths for 3"),
        ({"img_size": 14}, "14 pixels .* does not divide into 4×4 blocks"),
        ({"num_heads": 3}, "a width of 64 does not divide into 3 heads"),
        ({"pretrained": True}, "there are no weights of TransGAN"),
    ],
)
def test_what_does_not_fit_transgan_is_refused(options: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        timm.create_model("transgan_64", **{**TINY_GAN, **options})


@pytest.mark.parametrize("make", [transposed, transgan])
@pytest.mark.parametrize("shape", [(2, 7), (2, 1), (6,), (2, 6, 1)])
def test_latents_of_another_width_are_refused(make: Any, shape: tuple[int, ...]) -> None:
    generator = make()
    width = generator.latent_dim
    with pytest.raises(ValueError, match=rf"takes latents \(B, {width}\), not \({shape[0]},"):
        generator(torch.zeros(shape, dtype=torch.float64))


@operators
def test_whatever_is_not_shuffled_as_it_comes_may_have_any_width(name: str) -> None:
    if name in ("pixel_shuffle", "pixel_shuffle_conv"):
        with pytest.raises(ValueError, match="not 6"):
            make_unsampling(name, 6, 5)
    else:
        assert make_unsampling(name, 6, 5)(torch.zeros(1, 2, 3, 6)).shape == (1, 4, 6, 5)


def test_options_of_classifiers_are_not_taken() -> None:
    for name in ("transposed_nest_64", "transgan_64"):
        for option in ("num_classes", "drop_path_rate"):
            with torch.device("meta"), pytest.raises(TypeError, match=option):
                timm.create_model(name, **{option: 10})


def test_another_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="is '', 'fused' or 'plain', not 'flash'"):  # noqa: SIM117
        with kernel("flash"):  # type: ignore[arg-type]
            pass
