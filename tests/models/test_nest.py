"""NesT: exact sizes, the structure of Figure 1, and the same function as the official code's.

The official forward pass is written down a second time here, in numpy and on the flax parameter
tree itself; `from_flax` is held to it in float64, and `from_timm` to timm's own port.
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models.nest import Nest as TimmNest
from torch import nn

from repro.data.randomness import sample_keys
from repro.models import attention as attention_module
from repro.models import nest, stochastic_depth
from repro.models.aggregation import ConvNormMaxPool, blockify, unblockify
from repro.models.attention import Attention, attend
from repro.models.nest import NesT, checkpoint_filter_fn, from_flax, from_timm
from repro.models.nest_flax import read_timm, resize_position_embedding

# Three hierarchies of 16, 4 and 1 blocks of 2×2 tokens on 8×8 images.
SMALL: dict[str, Any] = {"img_size": 8, "depths": (1, 2, 1), "embed_dims": 24, "num_heads": 3}


def small(**overrides: Any) -> NesT:
    torch.manual_seed(0)
    return NesT(**{**SMALL, **overrides}).eval()


def size(name: str, **overrides: Any) -> int:
    with torch.device("meta"):
        model = timm.create_model(name, **overrides)
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def shake(model: nn.Module) -> None:
    """Random values everywhere, so that no norm, bias or embedding can hide a mistake."""
    for name, parameter in model.named_parameters():
        noise = torch.randn_like(parameter)
        if parameter.ndim == 1:
            parameter.copy_(0.2 * noise + (name.endswith("weight")))
        elif parameter.shape[0] == 1:
            parameter.copy_(0.5 * noise)  # a position embedding
        else:
            parameter.copy_(noise / math.sqrt(parameter[0].numel()))


# Sizes and entry points.


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("nest_tiny_cifar", 10, 6_006_730),
        ("nest_small_cifar", 10, 22_849_930),
        ("nest_base_cifar", 10, 89_050_378),
        ("nest_tiny_cifar", 100, 6_024_100),
        ("nest_small_cifar", 100, 22_884_580),
        ("nest_base_cifar", 100, 89_119_588),
        ("nest_tiny_imagenet", 1000, 17_057_608),
        ("nest_small_imagenet", 1000, 38_351_176),
        ("nest_base_imagenet", 1000, 67_723_368),
    ],
)
def test_exact_parameter_counts(name: str, classes: int, parameters: int) -> None:
    assert size(name, num_classes=classes) == parameters


def test_the_defaults_are_ten_and_a_thousand_classes() -> None:
    assert size("nest_tiny_cifar") == 6_006_730
    assert size("nest_tiny_imagenet") == 17_057_608


@pytest.mark.parametrize(
    ("parameters", "overrides"),
    [
        (6_599_626, {"attention": "multi_head"}),
        (4_294_000, {"patch_size": 2, "depths": (3, 3, 3)}),  # NesT_3-T, S=2
        (4_739_000, {"patch_size": 2, "depths": (3, 3, 3), "attention": "multi_head"}),
        (5_670_000, {"depths": (4, 4, 4)}),  # NesT_3-T, S=1
    ],
)
def test_overrides_build_the_other_variants(parameters: int, overrides: dict[str, Any]) -> None:
    assert size("nest_tiny_cifar", **overrides) == pytest.approx(parameters, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("nest_tiny_imagenet", 18.08), ("nest_small_imagenet", 39.37), ("nest_base_imagenet", 69.09)],
)
def test_384_pixels_make_blocks_of_24(name: str, millions: float) -> None:
    assert round(size(name, img_size=384) / 1e6, 2) == millions


def test_timm_keeps_its_own_nest() -> None:
    assert isinstance(timm.create_model("nest_tiny"), TimmNest)


def test_there_are_no_weights_to_download() -> None:
    with pytest.raises(ValueError, match="from_flax and from_timm"):
        timm.create_model("nest_tiny_cifar", pretrained=True)


def test_timm_passes_what_it_always_passes() -> None:
    options: dict[str, Any] = {"pretrained_cfg": {"mean": (0, 0, 0)}, "cache_dir": "/nowhere"}
    model = timm.create_model("nest_tiny_cifar", **SMALL, in_chans=1, **options)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"img_size": 30}, r"30 pixels in patches of 1 .* 4×4 blocks, the bottom of 3"),
        ({"patch_size": 4}, r"8 pixels in patches of 4 .* 4×4 blocks"),
        ({"embed_dims": (24, 24)}, r"embed_dims \(24, 24\) is for 2 hierarchies, depths for 3"),
        ({"num_heads": (3, 3, 3, 3)}, r"num_heads .* is for 4 hierarchies, depths for 3"),
        ({"num_heads": 5}, "width of 24 does not divide into 5 heads"),
        ({"depths": ()}, "hierarchies"),
        ({"attention": "single"}, "'multi_head' or 'multi_query', not 'single'"),
        ({"gelu": "relu"}, "'tanh' or 'erf', not 'relu'"),
    ],
)
def test_sizes_that_do_not_fit_are_named(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        small(**overrides)
    assert "\n" not in str(error.value)


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="takes 8² pixels, not 4×4"):
        small()(torch.zeros(1, 3, 4, 4))


# Blocks and their aggregation.


def test_blocks_and_tokens_follow_row_by_row() -> None:
    plane = torch.arange(2 * 6 * 6 * 3).reshape(2, 6, 6, 3)
    blocks = blockify(plane, 2)
    assert blocks.shape == (2, 9, 4, 3)
    for row in range(6):
        for column in range(6):
            block = (row // 2) * 3 + column // 2
            token = (row % 2) * 2 + column % 2
            assert torch.equal(blocks[:, block, token], plane[:, row, column])
    assert torch.equal(unblockify(blocks, 2), plane)


@pytest.mark.parametrize("side", [2, 4, 10])
@torch.no_grad()
def test_pooling_windows_begin_at_pixel_zero(side: int) -> None:
    aggregate = ConvNormMaxPool(3, 5)
    shake(aggregate)
    plane = torch.randn(2, side, side, 3)
    conv, norm = aggregate.conv, aggregate.norm
    padded = F.pad(plane.permute(0, 3, 1, 2), (1, 1, 1, 1))
    z = F.conv2d(padded, conv.weight, conv.bias).permute(0, 2, 3, 1)
    z = F.layer_norm(z, (5,), norm.weight, norm.bias, eps=1e-6)
    pooled = aggregate(plane)
    assert pooled.shape == (2, side // 2, side // 2, 5)
    for i in range(side // 2):
        for j in range(side // 2):
            window = z[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            torch.testing.assert_close(pooled[:, i, j], window.amax(dim=(1, 2)))


@torch.no_grad()
def test_attention_stays_in_its_block_until_the_aggregation() -> None:
    model = small(img_size=16)  # blocks of 4×4: 4×4 of them, then 2×2, then one
    shake(model)
    image = torch.randn(1, 3, 16, 16)
    other = image.clone()
    other[0, :, 2, 7] += 1  # block (0, 1), at the border of what will be the first of the 2×2
    bottom, middle, top = (
        (a != b).any(-1)[0]
        for a, b in zip(model.hierarchies(image), model.hierarchies(other), strict=True)
    )
    assert bottom[:4, 4:8].all()
    assert bottom.sum() == 16
    assert middle[:4].all()  # the image plane: the convolution reaches over the border
    assert not middle[4:].any()
    assert top.all()


# Attention.


@pytest.fixture(params=["fused", "formula"])
def core(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each way in which a CPU computes attention in fp32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision({"fused": "highest", "formula": "medium"}[request.param])
    yield request.param
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("differentiated", [True, False])
def test_a_cpu_has_the_faster_way(
    core: str, dtype: torch.dtype, differentiated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        calls.append(q)
        return q

    monkeypatch.setattr(F, "scaled_dot_product_attention", fused)
    with torch.set_grad_enabled(differentiated):
        attend(*torch.zeros(3, 2, 2, 4, 8, dtype=dtype))
    expected = core == "fused" if dtype == torch.float32 else not differentiated
    assert len(calls) == expected


@pytest.mark.parametrize("at_once", [1, 3 * 5 * 4 * 7, 10**9])
def test_attention_in_pieces_is_attention(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_module, "_is_fused_fast", lambda q: False)
    monkeypatch.setattr(attention_module, "MAX_SCORES", at_once)
    q, k, v = (torch.randn(11, 5, m, 8, dtype=torch.float64) for m in (4, 7, 7))
    expected = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(attend(q, k, v), expected)


@pytest.mark.usefixtures("core")
@pytest.mark.parametrize("kind", ["multi_head", "multi_query"])
@torch.no_grad()
def test_attention_equals_the_textbook(kind: nest.AttentionKind) -> None:
    attention = Attention(24, 3, kind).double()
    shake(attention)
    x = torch.randn(2, 5, 4, 24, dtype=torch.float64)
    key_heads = attention.key_heads
    q, k, v = attention.qkv(x).split((24, 8 * key_heads, 8 * key_heads), dim=-1)
    outputs = []
    for head in range(3):
        mine, theirs = slice(8 * head, 8 * head + 8), slice(8 * (head % key_heads), None)
        key, value = k[..., theirs][..., :8], v[..., theirs][..., :8]
        weights = (q[..., mine] @ key.transpose(-2, -1) / math.sqrt(8)).softmax(-1)
        outputs.append(weights @ value)
    expected = attention.proj(torch.cat(outputs, dim=-1))
    torch.testing.assert_close(attention(x), expected)


@pytest.mark.parametrize("kind", ["multi_head", "multi_query"])
def test_off_the_cpu_the_fused_kernel_gets_four_dimensions(
    kind: nest.AttentionKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[torch.Size, ...]] = []

    def fused(*tensors: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(t.shape for t in tensors))
        return torch.empty_like(tensors[0])

    monkeypatch.setattr(F, "scaled_dot_product_attention", fused)
    monkeypatch.setattr(attention_module, "MAX_FUSED_BLOCKS", 6)
    with torch.device("meta"):
        assert Attention(24, 3, kind)(torch.empty(2, 4, 9, 24)).shape == (2, 4, 9, 24)
    query, key = ((1, 27, 8), (1, 9, 8)) if kind == "multi_query" else ((3, 9, 8), (3, 9, 8))
    assert shapes == [((p, *query), (p, *key), (p, *key)) for p in (6, 2)]


@torch.no_grad()
def test_multi_query_is_multi_head_with_one_key_for_all() -> None:
    query, head = Attention(24, 3, "multi_query"), Attention(24, 3, "multi_head")
    shake(query)
    head.proj.load_state_dict(query.proj.state_dict())
    rows = list(range(24)) + 3 * list(range(24, 32)) + 3 * list(range(32, 40))
    head.qkv.weight.copy_(query.qkv.weight[rows])
    head.qkv.bias.copy_(query.qkv.bias[rows])
    x = torch.randn(2, 5, 4, 24)
    torch.testing.assert_close(query(x), head(x))


# Training.


def test_stochastic_depth_rises_linearly_and_both_branches_share_a_rate() -> None:
    model = small(depths=(2, 3, 4), drop_path_rate=0.4)
    rates = [m.drop_prob for m in model.modules() if isinstance(m, DropPath)]
    assert rates[::2] == rates[1::2]
    np.testing.assert_allclose(rates[::2], np.linspace(0, 0.4, 9))


def test_drop_path_sees_the_images_first() -> None:
    model, seen = small(), []
    for module in model.modules():
        if isinstance(module, DropPath):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    model(torch.zeros(5, 3, 8, 8))
    assert seen == 2 * [(5, 16, 4, 24)] + 4 * [(5, 4, 4, 24)] + 2 * [(5, 1, 4, 24)]


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("tiny_cifar", 0.1),
        ("base_cifar", 0.1),
        ("tiny_imagenet", 0.2),
        ("small_imagenet", 0.3),
        ("base_imagenet", 0.5),
    ],
)
def test_drop_path_rates_of_the_variants(name: str, rate: float) -> None:
    with torch.device("meta"):
        model = timm.create_model(f"nest_{name}")
    assert max(m.drop_prob for m in model.modules() if isinstance(m, DropPath)) == rate


def test_initial_values() -> None:
    torch.manual_seed(0)
    parameters = dict(NesT(depths=(1, 1, 1, 1)).named_parameters())
    normal = [p.flatten() for name, p in parameters.items() if p.ndim > 1]
    assert len(normal) == 1 + 4 + 4 * 4 + 3 + 1  # patches, positions, layers, convolutions, head
    for weight in normal:
        assert weight.abs().max() <= 0.04
        assert weight.std().item() == pytest.approx(0.0176, rel=0.06)
    assert torch.cat(normal).std().item() == pytest.approx(0.017593, rel=2e-3)
    for name, parameter in parameters.items():
        if parameter.ndim == 1:
            assert (parameter == (1 if "norm" in name and name.endswith("weight") else 0)).all()


def test_only_pos_embed_escape_weight_decay() -> None:
    model = small()
    names = {name for name, _ in model.named_parameters() if name.startswith("pos_embed")}
    assert model.no_weight_decay() == names
    assert len(names) == 3


# Feature maps, without hooks.


def test_the_maps_lie_on_the_way_to_the_logits() -> None:
    model = small(embed_dims=(24, 48, 96), in_chans=1)
    shake(model)
    images = torch.randn(2, 1, 8, 8)
    maps = model.hierarchies(images)
    logits = model.classify(maps[-1])
    assert [m.shape for m in maps] == [(2, 8, 8, 24), (2, 4, 4, 48), (2, 2, 2, 96)]
    assert torch.equal(logits, model(images))
    assert torch.equal(model.forward_head(model.forward_features(images)), logits)
    for gradient in torch.autograd.grad(logits[:, 3].sum(), maps):
        assert gradient.abs().max() > 0


def test_class_activation_maps_average_to_the_logits() -> None:
    model = small()
    shake(model)
    images = torch.randn(2, 3, 8, 8)
    activation = model.forward_features(images) @ model.head.weight.T
    torch.testing.assert_close(activation.mean(dim=(1, 2)) + model.head.bias, model(images))


@torch.no_grad()
def test_bfloat16_autocast_computes_nearly_the_same() -> None:
    model, images = small(), torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images)
    torch.testing.assert_close(logits.float(), model(images), atol=0.01, rtol=0.05)


@pytest.mark.parametrize("training", [True, False])
def test_a_compiled_model_is_one_graph(training: bool) -> None:
    model = small(drop_path_rate=0.5).train(training)
    modules, images = stochastic_depth.install(model), torch.randn(4, 3, 8, 8)
    stochastic_depth.set_draws(modules, sample_keys(0, 0, torch.arange(4)))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), model(images))


# timm's port.


@pytest.mark.parametrize("name", ["nest_tiny_jx", "nest_small_jx", "nest_base_jx"])
@torch.no_grad()
def test_weights_of_timm_give_the_logits_of_timm(name: str) -> None:
    torch.manual_seed(1)
    theirs = timm.create_model(name).eval()
    shake(theirs)
    ours = from_timm(theirs.state_dict()).eval()
    images = torch.randn(1, 3, 224, 224)
    expected = theirs(images)
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(images), expected, atol=1e-4, rtol=0)


def small_timm() -> nn.Module:
    torch.manual_seed(2)
    sizes: dict[str, Any] = {"embed_dims": (32, 64, 128), "num_heads": (1, 2, 4)}
    model: nn.Module = TimmNest(
        img_size=16, patch_size=2, depths=(1, 1, 2), num_classes=7, pad_type="same", **sizes
    )
    shake(model)
    return model.double().eval()


@pytest.mark.usefixtures("core")
def test_gradients_are_those_of_timm() -> None:
    theirs = small_timm()
    ours = from_timm(theirs.state_dict()).double().eval()
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    for model in (theirs, ours):
        torch.autograd.backward(F.cross_entropy(model(images), torch.tensor([0, 3, 6])))
    _, expected = read_timm({n: p.grad for n, p in theirs.named_parameters() if p.grad is not None})
    found = {name: p.grad for name, p in ours.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(found[name], gradient, atol=1e-7, rtol=1e-5)


def test_a_foreign_state_dict_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not the state dict of timm's NesT"):
        from_timm(nn.Linear(2, 2).state_dict())


# Other input sizes.


def test_pos_embed_are_resized_block_by_block() -> None:
    embedding = torch.randn(1, 4, 9, 5)
    found = resize_position_embedding(embedding, 5).reshape(4, 5, 5, 5)
    grid = embedding.reshape(4, 3, 3, 5)
    for i in range(5):
        for j in range(5):
            y, x = i * 2 / 4, j * 2 / 4  # the corners stay the corners
            y0, x0 = min(int(y), 1), min(int(x), 1)
            expected = sum(
                wy * wx * grid[:, y0 + dy, x0 + dx]
                for dy, wy in ((0, 1 - y + y0), (1, y - y0))
                for dx, wx in ((0, 1 - x + x0), (1, x - x0))
            )
            torch.testing.assert_close(found[:, i, j], expected)


def test_resizing_keeps_what_has_no_size() -> None:
    embedding = torch.randn(1, 4, 9, 5)
    assert torch.equal(resize_position_embedding(embedding, 3), embedding)
    constant = torch.arange(4.0).reshape(1, 4, 1, 1).expand(1, 4, 9, 5)
    expected = torch.arange(4.0).reshape(1, 4, 1, 1).expand(1, 4, 49, 5)
    torch.testing.assert_close(resize_position_embedding(constant, 7), expected)


@torch.no_grad()
def test_weights_of_224_pixels_load_at_384() -> None:
    narrow: dict[str, Any] = {"depths": (1, 1, 1), "embed_dims": 8, "num_heads": 2}
    source = timm.create_model("nest_tiny_imagenet", **narrow, num_classes=3)
    target = timm.create_model("nest_tiny_imagenet", **narrow, num_classes=3, img_size=384)
    target.load_state_dict(checkpoint_filter_fn(source.state_dict(), target))
    for old, new in zip(source.pos_embed, target.pos_embed, strict=True):
        assert new.shape == (1, old.shape[1], 24 * 24, 8)
        assert torch.equal(new, resize_position_embedding(old, 24))
        torch.testing.assert_close(new[:, :, 0], old[:, :, 0])
    assert torch.equal(target.head.weight, source.head.weight)
    assert target(torch.zeros(1, 3, 384, 384)).shape == (1, 3)


@pytest.mark.parametrize(("name", "plane"), [("conv_norm_max", "image"), ("query", "block")])
def test_the_resizing_is_found_where_timm_has_its_own(name: str, plane: str) -> None:
    aggregation = {"aggregation": name, "aggregation_plane": plane}
    source, target = small(**aggregation), small(img_size=24, **aggregation)
    shake(source)
    for model in (target, timm.create_model("nest_tiny", img_size=32)):
        assert callable(sys.modules[type(model).__module__].checkpoint_filter_fn)
    state = source.state_dict()
    fitted = checkpoint_filter_fn(state, target)
    target.load_state_dict(fitted)
    assert state["pos_embed.0"].shape == (1, 16, 4, 24)  # what was given is left as it was
    assert fitted["pos_embed.0"].shape == (1, 16, 36, 24)
    assert all(fitted[n] is w for n, w in state.items() if not n.startswith("pos_embed"))


def test_from_timm_takes_another_image_size() -> None:
    assert from_timm(small_timm().state_dict(), img_size=32).block_side == 4


# The official JAX code: its parameter tree, and its forward pass once more, in numpy.

Tree = dict[str, Any]


def flax_tree(
    dims: Sequence[int],
    heads: Sequence[int],
    depths: Sequence[int],
    side: int,
    patch: int,
    classes: int = 5,
    multi_query: bool = False,
) -> Tree:
    """Random parameters named and shaped as flax does, float64 holding float32 values."""
    random = np.random.default_rng(0)

    def draw(*shape: int, mean: float = 0) -> Any:
        scale = 0.3 if len(shape) < 3 or shape[0] == 1 else 1 / math.sqrt(np.prod(shape[:-1]))
        return random.normal(mean, scale, shape).astype(np.float32).astype(np.float64)

    def affine(*shape: int, bias: tuple[int, ...] = ()) -> Tree:
        return {"kernel": draw(*shape), "bias": draw(*(bias or shape[-1:]))}

    def norm(dim: int) -> Tree:
        return {"scale": draw(dim, mean=1), "bias": draw(dim)}

    def block(dim: int, heads: int) -> Tree:
        d = dim // heads
        query = affine(dim, heads, d, bias=(heads, d))
        output = {"proj_kernel": draw(heads, d, dim), "bias": draw(dim)}
        both = affine(dim, heads, 2 * d, bias=(heads, 2 * d))
        return {
            "LayerNorm_0": norm(dim),
            **(
                {"MultiQueryAttention_0": {
                    "DenseGeneral_0": query, "Dense_0": affine(dim, 2 * d), **output}}
                if multi_query
                else {"MultiHeadAttention_0": {
                    "DenseGeneral_0": query, "DenseGeneral_1": both, **output}}
            ),
            "LayerNorm_1": norm(dim),
            "MlpBlock_0": {"Dense_0": affine(dim, 4 * dim), "Dense_1": affine(4 * dim, dim)},
        }  # fmt: skip

    layers = [i for i, depth in enumerate(depths) for _ in range(depth)]
    return {
        "PatchEmbedding_0": {"Conv_0": affine(patch, patch, 3, dims[0])},
        **{
            f"PositionEmbedding_{i}": {
                "pos_embedding": draw(1, 4 ** (len(dims) - 1 - i), side * side, dim)
            }
            for i, dim in enumerate(dims)
        },
        **{f"EncoderNDBlock_{j}": block(dims[i], heads[i]) for j, i in enumerate(layers)},
        **{
            f"ConvPool_{i}": {
                "Conv_0": affine(3, 3, dims[i], dims[i + 1]),
                "LayerNorm_0": norm(dims[i + 1]),
            }
            for i in range(len(dims) - 1)
        },
        "LayerNorm_0": norm(dims[-1]),
        "Dense_0": affine(dims[-1], classes),
    }


def layer_norm(x: Any, p: Tree) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def dense(x: Any, p: Tree) -> Any:
    return np.tensordot(x, p["kernel"], 1) + p["bias"]


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def encoder_block(x: Any, p: Tree) -> Any:
    y = layer_norm(x, p["LayerNorm_0"])
    if "MultiHeadAttention_0" in p:
        attention = p["MultiHeadAttention_0"]
        both = dense(y, attention["DenseGeneral_1"])  # (b, t, m, h, 2d)
        key, value = np.split(both, 2, axis=-1)
        equation, sums = "btlhd,btmhd->bthlm", "bthlm,btmhd->btlhd"
    else:
        attention = p["MultiQueryAttention_0"]
        key, value = np.split(dense(y, attention["Dense_0"]), 2, axis=-1)  # (b, t, m, d)
        equation, sums = "btlhd,btmd->bthlm", "bthlm,btmd->btlhd"
    query = dense(y, attention["DenseGeneral_0"])  # (b, t, l, h, d)
    weights = softmax(np.einsum(equation, query / math.sqrt(query.shape[-1]), key))
    output = np.einsum(sums, weights, value)
    x = x + np.einsum("btlhd,hdf->btlf", output, attention["proj_kernel"]) + attention["bias"]
    y = gelu(dense(layer_norm(x, p["LayerNorm_1"]), p["MlpBlock_0"]["Dense_0"]))
    return x + dense(y, p["MlpBlock_0"]["Dense_1"])


def conv_pool(plane: Any, p: Tree) -> Any:
    _, height, width, _ = plane.shape
    kernel = p["Conv_0"]["kernel"]
    padded = np.pad(plane, ((0, 0), (1, 1), (1, 1), (0, 0)))
    z = p["Conv_0"]["bias"] + sum(
        padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3)
    )
    z = layer_norm(z, p["LayerNorm_0"])
    z = np.pad(z, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=-np.inf)
    offsets = [(i, j) for i in range(3) for j in range(3)]
    return np.max([z[:, i : i + height : 2, j : j + width : 2] for i, j in offsets], axis=0)


def official_forward(params: Tree, images: Any, depths: Sequence[int], side: int) -> Any:
    """Logits of NHWC images."""
    embedding = params["PatchEmbedding_0"]["Conv_0"]
    p = embedding["kernel"].shape[0]
    x = embedding["bias"] + sum(
        images[:, i::p, j::p] @ embedding["kernel"][i, j] for i in range(p) for j in range(p)
    )
    layer = 0
    for level, depth in enumerate(depths):
        b, height, width, c = x.shape
        rows, columns = height // side, width // side
        x = x.reshape(b, rows, side, columns, side, c).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(b, rows * columns, side * side, c)
        x = x + params[f"PositionEmbedding_{level}"]["pos_embedding"]
        for _ in range(depth):
            x = encoder_block(x, params[f"EncoderNDBlock_{layer}"])
            layer += 1
        x = x.reshape(b, rows, columns, side, side, c).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(b, height, width, c)
        if level < len(depths) - 1:
            x = conv_pool(x, params[f"ConvPool_{level}"])
    return dense(layer_norm(x, params["LayerNorm_0"]).mean((1, 2)), params["Dense_0"])


IMAGENET_LIKE: dict[str, Any] = {
    "dims": (16, 32, 64), "heads": (2, 4, 8), "depths": (1, 2, 3), "side": 3, "patch": 2,
}  # fmt: skip
CIFAR_LIKE: dict[str, Any] = {
    "dims": (24, 24, 24), "heads": (3, 3, 3), "depths": (2, 2, 2), "side": 2, "patch": 1,
    "multi_query": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "depths"),
    [
        (IMAGENET_LIKE, None),
        ({**IMAGENET_LIKE, "multi_query": True}, None),
        (CIFAR_LIKE, None),
        ({**CIFAR_LIKE, "multi_query": False}, None),
        ({**CIFAR_LIKE, "depths": (1, 3, 2)}, (1, 3, 2)),
    ],
)
@torch.no_grad()
def test_from_flax_computes_the_official_function(
    shape: dict[str, Any], depths: tuple[int, ...] | None
) -> None:
    params = flax_tree(**shape)
    model = from_flax(params, depths=depths).double().eval()
    pixels = shape["side"] * shape["patch"] * 4
    images = np.random.default_rng(1).normal(size=(2, pixels, pixels, 3))
    expected = official_forward(params, images, shape["depths"], shape["side"])
    found = model(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert expected.std() > 0.1
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_from_flax_reads_the_published_cifar_tree() -> None:
    """The shapes that the official colab.ipynb prints for nest_tiny_s16_32."""
    params = flax_tree([192] * 4, [3] * 4, [3] * 4, 4, 1, classes=10, multi_query=True)
    block = params["EncoderNDBlock_11"]
    attention = block["MultiQueryAttention_0"]
    assert attention["DenseGeneral_0"]["kernel"].shape == (192, 3, 64)
    assert attention["DenseGeneral_0"]["bias"].shape == (3, 64)
    assert attention["Dense_0"]["kernel"].shape == (192, 128)
    assert attention["proj_kernel"].shape == (3, 64, 192)
    assert params["ConvPool_2"]["Conv_0"]["kernel"].shape == (3, 3, 192, 192)
    assert params["PositionEmbedding_0"]["pos_embedding"].shape == (1, 64, 16, 192)
    model = from_flax(params)
    assert sum(p.numel() for p in model.parameters()) == 6_006_730
    shapes = {name: p.shape for name, p in model.named_parameters()}
    assert shapes == {name: p.shape for name, p in NesT().named_parameters()}


def test_from_flax_takes_another_image_size_and_rate() -> None:
    model = from_flax(flax_tree(**IMAGENET_LIKE), img_size=48, drop_path_rate=0.0)
    assert model.block_side == 6
    assert all(m.drop_prob == 0 for m in model.modules() if isinstance(m, DropPath))


def entry(tree: Tree, path: str) -> tuple[Tree, str]:
    *folders, name = path.split("/")
    for folder in folders:
        tree = tree[folder]
    return tree, name


@pytest.mark.parametrize(
    "path",
    [
        "PatchEmbedding_0/Conv_0/kernel",
        "PositionEmbedding_1/pos_embedding",
        "EncoderNDBlock_0/MultiHeadAttention_0/DenseGeneral_0/kernel",
        "EncoderNDBlock_3/MultiHeadAttention_0/DenseGeneral_1/bias",
        "EncoderNDBlock_5/MlpBlock_0/Dense_1/kernel",
        "ConvPool_1/LayerNorm_0/scale",
        "Dense_0/bias",
    ],
)
def test_a_faulty_flax_entry_is_named(path: str) -> None:
    faults: Mapping[str, str] = {
        "missing": f"{path} is missing",
        "shaped": f"{path} is ",
        "flat": f"{path} is ",
        "extra": f"unexpected {path}_ema",
    }
    for fault, message in faults.items():
        params = flax_tree(**IMAGENET_LIKE)
        folder, name = entry(params, path)
        array = folder[name]
        if fault == "missing":
            del folder[name]
        elif fault == "extra":
            folder[f"{name}_ema"] = array
        else:
            folder[name] = array.repeat(3, axis=0) if fault == "shaped" else array[None]
        with pytest.raises(ValueError, match=r"^flax parameters: [^\n]+$") as error:
            from_flax(params)
        assert message in str(error.value)


def test_depths_that_no_shape_determines_are_required() -> None:
    params = flax_tree(**{**CIFAR_LIKE, "depths": (1, 1, 2)})
    with pytest.raises(ValueError, match="4 layers of one width in 3 hierarchies: pass depths="):
        from_flax(params)
    with pytest.raises(ValueError, match=r"depths \(1, 1\) for 4 layers in 3 hierarchies"):
        from_flax(params, depths=(1, 1))
    depths = [len(list(t.children())) for t in from_flax(params, depths=(1, 1, 2)).transformers]
    assert depths == [1, 1, 2]


def test_a_tree_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="PatchEmbedding_0/Conv_0/kernel is missing"):
        from_flax({"params": flax_tree(**CIFAR_LIKE)})
