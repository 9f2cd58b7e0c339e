"""Block aggregations: what each computes, which pixels it sees on either plane, and its size."""

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, get_args

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn

from repro.models.aggregation import (
    OPERATORS,
    AggregationPlane,
    ConvNormMaxPool,
    OnBlockPlane,
    PatchMerge,
    Pool,
    QuerySubsample,
    StridedConv,
    make_aggregation,
)
from repro.models.attention import AttentionKind
from repro.models.nest import NesT

IMAGE_PLANE = ["conv_norm_max", "conv", "avg", "max", "subsample", "patch_merge"]
CONTROLS = ["conv5_norm_max", "conv7_norm_max", "max_conv_norm"]
NAMES = [*IMAGE_PLANE, "query"]
CHOICES: list[tuple[str, AggregationPlane]] = [
    *((name, "image") for name in IMAGE_PLANE),
    *((name, "block") for name in NAMES),
]
# Three hierarchies of 16, 4 and 1 blocks of 2×2 tokens on 8×8 images.
SMALL: dict[str, Any] = {"img_size": 8, "depths": (1, 1, 1), "embed_dims": (12, 24, 48)}

both_kinds = pytest.mark.parametrize("kind", get_args(AttentionKind))


def operator(name: str, dim_in: int, dim_out: int, heads: int = 3) -> nn.Module:
    """The bare operator, in float64 and with random values everywhere."""
    torch.manual_seed(0)
    made = make_aggregation(name, "block", 1, "multi_head", dim_in, dim_out, heads)
    assert isinstance(made, OnBlockPlane)
    for parameter in made.double().parameters():
        nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.5)
    return made.operator


def plane(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def windows(x: Tensor, padding: float) -> Tensor:
    """The 3×3 windows at pixels 0, 2, 4, ...: (B, H, W, C) -> (B, H/2, W/2, 9, C)."""
    _, h, w, _ = x.shape
    padded = F.pad(x, (0, 0, 0, 1, 0, 1), value=padding)
    return torch.stack([padded[:, i : i + h : 2, j : j + w : 2] for i, j in SQUARE], dim=3)


SQUARE = [(i, j) for i in range(3) for j in range(3)]


def model(name: str, side: AggregationPlane, **overrides: Any) -> NesT:
    torch.manual_seed(0)
    return NesT(aggregation=name, aggregation_plane=side, **{**SMALL, **overrides})


# What each computes.


@pytest.mark.parametrize(("height", "width"), [(2, 2), (4, 6), (10, 8)])
def test_a_convolution_of_stride_2_begins_at_pixel_zero(height: int, width: int) -> None:
    conv, x = operator("conv", 4, 6), plane(2, height, width, 4)
    weight = conv.get_parameter("conv.weight")
    expected = conv.get_parameter("conv.bias") + sum(
        windows(x, 0)[:, :, :, k] @ weight[:, :, i, j].T for k, (i, j) in enumerate(SQUARE)
    )
    torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (4, 6), (10, 8)])
def test_pools_are_of_3_by_3_windows(height: int, width: int) -> None:
    x = plane(2, height, width, 4) - 5  # negative: zeros for padding would be the largest
    torch.testing.assert_close(operator("max", 4, 4)(x), windows(x, -math.inf).amax(3))
    torch.testing.assert_close(operator("avg", 4, 4)(x), windows(x, 0).sum(3) / 9)
    torch.testing.assert_close(operator("subsample", 4, 4)(x), x[:, ::2, ::2])


@pytest.mark.parametrize("side", [5, 7])
def test_a_larger_kernel_is_the_paper_s_where_it_is_zero_outside(side: int) -> None:
    paper, wide = operator("conv_norm_max", 4, 6), operator(f"conv{side}_norm_max", 4, 6)
    x, rim = plane(2, 8, 6, 4), (side - 3) // 2
    inner = F.pad(paper.get_parameter("conv.weight"), (rim,) * 4)
    wide.load_state_dict({**paper.state_dict(), "conv.weight": inner})
    torch.testing.assert_close(wide(x), paper(x))


def test_pooling_first_is_the_paper_s_with_its_parts_in_another_order() -> None:
    first, x = operator("max_conv_norm", 4, 6), plane(2, 8, 6, 4)
    pooled = windows(x, -math.inf).amax(3).permute(0, 3, 1, 2)
    weight, bias = first.get_parameter("conv.weight"), first.get_parameter("conv.bias")
    conv = F.conv2d(pooled, weight, bias, padding=1).permute(0, 2, 3, 1)
    scale, shift = first.get_parameter("norm.weight"), first.get_parameter("norm.bias")
    torch.testing.assert_close(first(x), F.layer_norm(conv, (6,), scale, shift, 1e-6))


def test_the_average_counts_padding_as_flax_does() -> None:
    average = operator("avg", 1, 1)(torch.ones(1, 6, 6, 1, dtype=torch.float64))
    edge = 2 / 3  # at the far edge a third of the window is padding
    row = torch.tensor([1, 1, edge], dtype=torch.float64)
    torch.testing.assert_close(average[0, :, :, 0], row[:, None] * row)


@pytest.mark.parametrize("name", ["avg", "max", "subsample"])
def test_a_pool_is_followed_by_a_1_by_1_convolution_only_where_the_width_changes(name: str) -> None:
    assert not list(operator(name, 4, 4).parameters())
    wide, narrow, x = operator(name, 4, 6), operator(name, 4, 4), plane(2, 6, 4, 4)
    weight, bias = wide.get_parameter("proj.weight"), wide.get_parameter("proj.bias")
    pooled = narrow(x).permute(0, 3, 1, 2)
    expected = F.conv2d(pooled, weight[:, :, None, None], bias).permute(0, 2, 3, 1)
    torch.testing.assert_close(wide(x), expected)


def test_patch_merge_is_swins() -> None:
    ours = operator("patch_merge", 4, 6)
    swins = PatchMerging(4, 6, norm_layer=partial(nn.LayerNorm, eps=1e-6)).double()
    swins.load_state_dict(ours.state_dict())
    x = plane(2, 6, 8, 4)
    torch.testing.assert_close(ours(x), swins(x))


@both_kinds
@pytest.mark.parametrize(("dim_in", "dim_out"), [(12, 24), (24, 24)])
def test_sub_sampled_queries_attend_to_all(kind: AttentionKind, dim_in: int, dim_out: int) -> None:
    torch.manual_seed(0)
    query, x = QuerySubsample(dim_in, dim_out, 3, kind).double(), plane(2, 4, 6, dim_in)
    nn.init.normal_(query.norm.weight)
    d, key_heads = dim_out // 3, 3 if kind == "multi_head" else 1
    tokens = query.norm(x).flatten(1, 2)  # (B, 24, C), row by row
    q, (k, v) = query.q(tokens), query.kv(tokens).chunk(2, dim=-1)
    outputs = []
    for head in range(3):
        mine, theirs = (slice(d * h, d * h + d) for h in (head, head % key_heads))
        scores = q[..., mine] @ k[..., theirs].transpose(1, 2) / math.sqrt(d)
        outputs.append(scores.softmax(-1) @ v[..., theirs])
    full = query.skip(x).flatten(1, 2) + query.proj(torch.cat(outputs, dim=-1))
    askers = [0, 2, 4, 12, 14, 16]  # rows 0 and 2 of 4, columns 0, 2 and 4 of 6
    assert isinstance(query.skip, nn.Identity) == (dim_in == dim_out)
    torch.testing.assert_close(query(x).flatten(1, 2), full[:, askers])


# Image plane and block plane.

# Of the pixels, counted from twice the output's row or column, those that an output sees.
REACH: dict[str, Sequence[int]] = {
    "conv_norm_max": range(-1, 4),
    "conv": range(3),
    "avg": range(3),
    "max": range(3),
    "subsample": range(1),
    "patch_merge": range(2),
}
PIXELS = 12  # 3×3 groups of 2×2 blocks of 2×2 tokens


def seen(aggregate: nn.Module) -> Tensor:
    """Which outputs change with a pixel: (row, column, output row, output column)."""
    base = plane(1, PIXELS, PIXELS, 12)
    pixel = torch.eye(PIXELS**2, dtype=torch.float64).reshape(-1, PIXELS, PIXELS, 1)
    poke = 50 + 10 * plane(12)  # so that it is the largest, and its shape survives a LayerNorm
    with torch.no_grad():
        change: Tensor = aggregate(base + pixel * poke) - aggregate(base)
    changed = change.abs().amax(-1) > 1e-9  # in any of many channels: MaxPool hides it in most
    return changed.reshape(PIXELS, PIXELS, PIXELS // 2, PIXELS // 2)


def both_axes(along_one: Tensor) -> Tensor:
    """(pixel, output) along an axis -> (row, column, output row, output column)."""
    return along_one[:, None, :, None] & along_one[None, :, None, :]


def in_reach(name: str) -> Tensor:
    offset = torch.arange(PIXELS)[:, None] - 2 * torch.arange(PIXELS // 2)
    return torch.isin(offset, torch.tensor(REACH[name]))


def same_group() -> Tensor:
    return torch.arange(PIXELS)[:, None] // 4 == torch.arange(PIXELS // 2) // 2


@pytest.mark.parametrize("name", IMAGE_PLANE)
def test_on_the_image_plane_an_output_sees_its_window(name: str) -> None:
    found = seen(operator(name, 12, 96))
    assert torch.equal(found, both_axes(in_reach(name)))
    crosses = bool((found & ~both_axes(same_group())).any())
    assert crosses == (name not in ("subsample", "patch_merge"))


@pytest.mark.parametrize("name", NAMES)
def test_on_the_block_plane_nothing_leaves_its_group(name: str) -> None:
    found = seen(OnBlockPlane(operator(name, 12, 96), 2))
    window = same_group() if name == "query" else in_reach(name)
    assert torch.equal(found, both_axes(window & same_group()))


@given(
    name=st.sampled_from(NAMES),
    images=st.integers(1, 3),
    rows=st.integers(1, 3),
    side=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_the_block_plane_is_each_group_as_an_image(
    name: str, images: int, rows: int, side: int
) -> None:
    aggregate = operator(name, 6, 9)
    x = plane(images, 2 * side * rows, 2 * side * rows, 6)
    found = OnBlockPlane(aggregate, side)(x)
    assert found.shape == (images, side * rows, side * rows, 9)
    for i in range(rows):
        for j in range(rows):
            group = x[:, 2 * side * i :, 2 * side * j :][:, : 2 * side, : 2 * side]
            part = found[:, side * i :, side * j :][:, :side, :side]
            torch.testing.assert_close(part, aggregate(group))
    if rows == 1 or name in ("subsample", "patch_merge"):  # the two planes do not differ
        torch.testing.assert_close(found, aggregate(x))


@pytest.mark.parametrize(("name", "side"), CHOICES)
@torch.no_grad()
def test_a_change_spreads_through_the_hierarchies(name: str, side: AggregationPlane) -> None:
    nest = model(name, side, img_size=16).eval()  # 4×4 blocks of 4×4, then 2×2, then one
    image = torch.randn(1, 3, 16, 16)
    other = image.clone()
    other[0, :, 0, 8] += 1  # block (0, 2), its first pixel, of the group (0, 1)
    bottom, middle, top = (
        (a != b).any(-1)[0]
        for a, b in zip(nest.hierarchies(image), nest.hierarchies(other), strict=True)
    )
    assert bottom[:4, 8:12].all()
    assert bottom.sum() == 16
    assert middle[:4, 4:].all()
    crosses = side == "image" and name not in ("subsample", "patch_merge")
    assert bool(middle[:4, :4].all()) == crosses
    assert middle.sum() == (32 if crosses else 16)
    assert top.all()


# In NesT.


@pytest.mark.parametrize(
    ("name", "cifar", "imagenet"),
    [  # NesT without aggregations has 5,009,674 and 16,226,440
        ("conv_norm_max", 6_006_730, 17_057_608),
        ("conv", 6_005_578, 17_056_456),
        ("avg", 5_009_674, 16_319_176),
        ("max", 5_009_674, 16_319_176),
        ("subsample", 5_009_674, 16_319_176),
        ("patch_merge", 5_456_650, 16_597_384),
        ("query", 5_307_274, 16_782_856),
    ],
)
def test_exact_parameter_counts(name: str, cifar: int, imagenet: int) -> None:
    for entry, parameters in (("nest_tiny_cifar", cifar), ("nest_tiny_imagenet", imagenet)):
        with torch.device("meta"):
            nest = timm.create_model(entry, aggregation=name, aggregation_plane="block")
        assert sum(p.numel() for p in nest.parameters()) == parameters


@pytest.mark.parametrize("dataset", ["cifar", "imagenet"])
@pytest.mark.parametrize("variant", ["tiny", "small", "base"])
def test_every_entry_point_takes_the_choice(variant: str, dataset: str) -> None:
    with torch.device("meta"):
        options = {"aggregation": "avg", "aggregation_plane": "block"}
        nest = timm.create_model(f"nest_{variant}_{dataset}", **options)
        plain = timm.create_model(f"nest_{variant}_{dataset}")
    for found, paper in zip(nest.aggregations, plain.aggregations, strict=True):
        assert isinstance(found, OnBlockPlane)
        assert isinstance(found.operator, Pool)
        assert found.block_side == nest.block_side
        assert type(paper) is ConvNormMaxPool


def test_names_are_what_they_say() -> None:
    kinds = {name: type(operator(name, 12, 12)) for name in NAMES}
    assert kinds == {
        "conv_norm_max": ConvNormMaxPool, "conv": StridedConv, "patch_merge": PatchMerge,
        "avg": Pool, "max": Pool, "subsample": Pool, "query": QuerySubsample,
    }  # fmt: skip
    assert {*OPERATORS} == {*IMAGE_PLANE, *CONTROLS}


@both_kinds
def test_queries_have_the_heads_of_the_hierarchy_above(kind: AttentionKind) -> None:
    nest = model("query", "block", num_heads=(1, 3, 6), attention=kind)
    queries = [m for m in nest.modules() if isinstance(m, QuerySubsample)]
    assert [m.head_dim for m in queries] == [8, 8]
    heads = [8 * 3, 8 * 6] if kind == "multi_head" else [8, 8]
    assert [m.kv.out_features for m in queries] == [2 * width for width in heads]


@pytest.mark.parametrize("name", NAMES)
def test_initial_values_are_the_models(name: str) -> None:
    nest = model(name, "block", embed_dims=(96, 192, 384))
    parameters = dict(nest.aggregations.named_parameters())
    weights = torch.cat([p.flatten() for p in parameters.values() if p.ndim > 1])
    assert weights.abs().max() <= 0.04
    assert weights.std().item() == pytest.approx(0.017593, rel=0.01)
    for word, parameter in parameters.items():
        if parameter.ndim == 1:
            assert (parameter == (1 if word.endswith("norm.weight") else 0)).all()


@pytest.mark.parametrize("name", IMAGE_PLANE)
def test_a_seed_gives_both_planes_the_same_weights(name: str) -> None:
    image, block = (list(model(name, side).parameters()) for side in get_args(AggregationPlane))
    assert all(torch.equal(a, b) for a, b in zip(image, block, strict=True))


@pytest.mark.parametrize(("name", "side"), CHOICES)
def test_gradients_flow_and_a_copy_computes_the_same(name: str, side: AggregationPlane) -> None:
    nest = model(name, side, drop_path_rate=0.0)
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    logits = nest(images)
    assert torch.equal(copy.deepcopy(nest)(images), logits)
    torch.autograd.backward(F.cross_entropy(logits, torch.tensor([0, 3])))
    assert images.grad is not None
    assert (images.grad.abs().amax((0, 1)) > 0).all() or name == "subsample"
    for parameter in nest.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize(("name", "side"), CHOICES)
@torch.no_grad()
def test_bfloat16_autocast_computes_nearly_the_same(name: str, side: AggregationPlane) -> None:
    aggregate, x = operator(name, 12, 12).float(), plane(2, 8, 8, 12).float()
    if side == "block":
        aggregate = OnBlockPlane(aggregate, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = aggregate(x)
    torch.testing.assert_close(found.float(), aggregate(x), atol=0.1, rtol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"aggregation": "mean"},
            "aggregation is one of conv_norm_max, conv5_norm_max, conv7_norm_max, max_conv_norm, "
            "conv, avg, max, subsample, patch_merge, query, "
            "not 'mean'",
        ),
        ({"aggregation_plane": "blocks"}, "aggregation_plane is 'image' or 'block', not 'blocks'"),
        (
            {"aggregation": "query"},
            "aggregation 'query' attends in blocks: set aggregation_plane to 'block'",
        ),
    ],
)
def test_what_there_is_not_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        timm.create_model("nest_tiny_cifar", **SMALL, **options)


def test_queries_whose_heads_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="width of 24 does not divide into 5 heads"):
        QuerySubsample(12, 24, 5, "multi_head")
