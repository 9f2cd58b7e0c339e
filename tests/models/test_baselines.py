"""The baselines of Table 1: exact sizes from arithmetic, and the structure each paper describes."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

import repro.models  # noqa: F401  (registers the entry points)
from repro.models.cct import CompactConvolutionalTransformer, Tokenizer
from repro.models.pvt import PyramidVisionTransformer, SpatialReductionAttention, to_map
from repro.models.pyramidnet import Bottleneck, PyramidNet, bottleneck_widths
from repro.models.wide_resnet import Block, WideResNet

# One configuration of about 0.25M parameters per family, as the demo scale uses them.
SWIN_SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 16}
PVT_SMALL: dict[str, Any] = {"patch_size": 2, "embed_dims": (24, 48, 96), "num_heads": (1, 2, 4)}
DEIT_SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 4, "embed_dim": 64, "depth": 5}
SMALL: dict[str, dict[str, Any]] = {
    "deit_tiny_patch16_224": {**DEIT_SMALL, "num_heads": 2},
    "swin_tiny_patch4_window7_224": {
        **SWIN_SMALL, "depths": (2, 2, 4), "num_heads": (2, 4, 8), "drop_path_rate": 0.0
    },
    "pvt_tiny": {
        **PVT_SMALL, "mlp_ratios": (4, 4, 4), "sr_ratios": (4, 2, 1), "depths": (2, 2, 1)
    },
    "cct_7_3x1": {"embed_dim": 72, "depth": 5, "num_heads": 3, "tokenizer_layers": 2},
    "wrn28_10": {"depth": 16, "widen": 1.1875, "stem_stride": 2},
    "pyramidnet164_48": {"depth": 20, "alpha": 54, "stem_stride": 2},
}  # fmt: skip
OURS = ("pvt_tiny", "cct_7_3x1", "wrn28_10", "pyramidnet164_48")


def small(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, num_classes=10, **{**SMALL[name], **options})
    return model


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# The number of parameters, by hand.


def linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def norm(width: int) -> int:
    return 2 * width


def transformer_layer(d: int, mlp_ratio: int = 4) -> int:
    """Two norms, q, k, v and the projection, and the two linear maps of the MLP."""
    hidden = mlp_ratio * d
    return 2 * norm(d) + 4 * linear(d, d) + linear(d, hidden) + linear(hidden, d)


def deit(classes: int, d: int) -> int:
    """2x2 patches of 32x32: 16² tokens and the class token; 12 layers."""
    tokens = linear(3 * 2 * 2, d) + (16**2 + 1) * d + d
    return tokens + 12 * transformer_layer(d) + norm(d) + linear(d, classes)


def swin(classes: int, d: int, depths: Sequence[int], head_dim: int = 32, window: int = 4) -> int:
    """1x1 patches with a norm, relative positions per head, merging 4 c -> 2 c without a bias."""
    total = linear(3, d) + norm(d)
    for stage, depth in enumerate(depths):
        c = d * 2**stage
        total += depth * (transformer_layer(c) + (2 * window - 1) ** 2 * c // head_dim)
        total += norm(4 * c) + 4 * c * 2 * c if stage < len(depths) - 1 else 0
    return total + norm(8 * d) + linear(8 * d, classes)


def pvt(classes: int, depths: Sequence[int], patch: int = 1) -> int:
    dims, mlp_ratios, sr_ratios = (64, 128, 320, 512), (8, 8, 4, 4), (8, 4, 2, 1)
    total, inputs, side = 0, 3, 32
    for d, mlp_ratio, sr, depth in zip(dims, mlp_ratios, sr_ratios, depths, strict=True):
        side //= patch
        total += linear(inputs * patch**2, d) + norm(d) + side**2 * d
        reduction = linear(sr**2 * d, d) + norm(d) if sr > 1 else 0
        total += depth * (transformer_layer(d, mlp_ratio) + reduction)
        inputs, patch = d, 2
    class_token_and_position = 2 * 512
    return total + class_token_and_position + norm(512) + linear(512, classes)


def cct(classes: int) -> int:
    d, unused_qkv_bias = 256, 3 * 256
    layers = 7 * (transformer_layer(d, 2) - unused_qkv_bias)
    return 3 * 9 * d + 16**2 * d + layers + norm(d) + linear(d, 1) + linear(d, classes)


def pyramidnet(classes: int) -> int:
    """54 bottlenecks in to w, w to w, w to 4w; the width w grows by 48 / 54 = 8 / 9 each."""
    total, inputs = 3 * 9 * 16 + norm(16), 16
    for k in range(1, 55):
        w = int(16 + 8 * k / 9 + 0.5)
        total += norm(inputs) + inputs * w + norm(w) + 9 * w * w
        total += norm(w) + w * 4 * w + norm(4 * w)
        inputs = 4 * w
    return total + norm(256) + linear(256, classes)


def wrn(classes: int) -> int:
    """Three groups of four blocks; the first of each group has a 1x1 shortcut."""
    total, inputs = 3 * 9 * 16, 16
    for w in (160, 320, 640):
        first = norm(inputs) + 9 * inputs * w + norm(w) + 9 * w * w + inputs * w
        total += first + 3 * (2 * norm(w) + 2 * 9 * w * w)
        inputs = w
    return total + norm(640) + linear(640, classes)


CIFAR_DEIT = {"img_size": 32, "patch_size": 2}
CIFAR_SWIN = {"img_size": 32, "patch_size": 1, "window_size": 4}
TABLE1: list[tuple[str, dict[str, int], Callable[[int], int], float]] = [
    # name, options, our arithmetic, millions with 10 classes as facts/nest.md section 7 has them
    ("pyramidnet164_48", {}, pyramidnet, 1.72),
    ("wrn28_10", {}, wrn, 36.48),
    ("deit_tiny_patch16_224", CIFAR_DEIT, lambda n: deit(n, 192), 5.39),
    ("deit_small_patch16_224", CIFAR_DEIT, lambda n: deit(n, 384), 21.40),
    ("deit_base_patch16_224", CIFAR_DEIT, lambda n: deit(n, 768), 85.27),
    ("pvt_tiny", {}, lambda n: pvt(n, (2, 2, 2, 2)), 12.46),
    ("pvt_tiny", {"patch_size": 4}, lambda n: pvt(n, (2, 2, 2, 2), patch=4), 12.34),
    ("pvt_small", {}, lambda n: pvt(n, (3, 4, 6, 3)), 23.71),
    ("pvt_base", {}, lambda n: pvt(n, (3, 8, 27, 3)), 60.60),
    ("cct_7_3x1", {}, cct, 3.76),
    ("swin_tiny_patch4_window7_224", CIFAR_SWIN, lambda n: swin(n, 96, (2, 2, 6, 2)), 27.51),
    ("swin_small_patch4_window7_224", CIFAR_SWIN, lambda n: swin(n, 96, (2, 2, 18, 2)), 48.81),
    ("swin_base_patch4_window7_224", CIFAR_SWIN, lambda n: swin(n, 128, (2, 2, 18, 2)), 86.70),
]


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize(("name", "options", "count", "millions"), TABLE1)
def test_size_is_the_one_derived_by_hand(
    name: str,
    options: dict[str, int],
    count: Callable[[int], int],
    millions: float,
    classes: int,
) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=classes, **options)
    assert size(model) == count(classes)
    assert round(count(10) / 1e6, 2) == millions


def test_the_convolutional_nets_have_the_published_sizes() -> None:
    assert (wrn(10), wrn(100)) == (36_479_194, 36_536_884)  # 36.5M (Zagoruyko & Komodakis 2016)
    assert (pyramidnet(10), pyramidnet(100)) == (1_715_442, 1_738_572)  # 1.7M (Han et al. 2017)


# What holds for every family.


@pytest.mark.parametrize("name", SMALL)
def test_a_small_variant_builds_and_runs(name: str) -> None:
    model = small(name)
    assert 0.2e6 < size(model) < 0.3e6
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", SMALL)
def test_the_gradient_reaches_every_parameter(name: str) -> None:
    model = small(name).train()
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8)
    torch.autograd.backward(F.cross_entropy(model(images), labels))
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        # The pooling softmax does not see a constant, so its bias has a gradient of exactly 0.
        if parameter_name != "attention_pool.bias":
            assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize("name", SMALL)
def test_an_image_does_not_change_the_logits_of_another(name: str) -> None:
    model = small(name).eval()
    images = torch.randn(2, 3, 32, 32)
    changed = torch.stack([images[0], torch.randn(3, 32, 32)])
    with torch.no_grad():
        before, after = model(images), model(changed)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1], atol=1e-4)


@pytest.mark.parametrize("name", OURS)
def test_forward_is_features_then_head(name: str) -> None:
    model: Any = small(name).eval()
    images = torch.randn(2, 3, 32, 32)
    features = model.forward_features(images)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.num_features)
    assert torch.equal(model.head(pooled), model.forward_head(features))
    assert torch.equal(model(images), model.forward_head(features))


@pytest.mark.parametrize("name", OURS)
def test_drop_path_grows_linearly_from_zero_over_the_layers(name: str) -> None:
    model = small(name, drop_path_rate=0.3)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    branches = 2 if name in ("pvt_tiny", "cct_7_3x1") else 1  # attention and MLP; or one residual
    expected = torch.linspace(0, 0.3, len(rates) // branches).repeat_interleave(branches)
    torch.testing.assert_close(torch.tensor(rates), expected)


@pytest.mark.parametrize("name", OURS)
def test_every_residual_branch_passes_its_own_drop_path_once(name: str) -> None:
    model = small(name)
    drop_paths = [module for module in model.modules() if isinstance(module, DropPath)]
    passed: list[nn.Module] = []
    for module in drop_paths:
        module.register_forward_hook(lambda module, _, __: passed.append(module))
    model(torch.randn(2, 3, 32, 32))
    assert passed == drop_paths


@pytest.mark.parametrize("name", OURS)
def test_branches_are_dropped_per_image_and_only_in_training(name: str) -> None:
    model = small(name, drop_path_rate=0.5)
    same_image = torch.randn(1, 3, 32, 32).expand(16, -1, -1, -1)
    with torch.no_grad():
        trained, evaluated = model.train()(same_image), model.eval()(same_image)
    assert len(trained.unique(dim=0)) > 2
    torch.testing.assert_close(evaluated, evaluated[:1].expand(16, -1))


@pytest.mark.parametrize("name", OURS)
def test_one_channel_and_another_number_of_classes(name: str) -> None:
    model = timm.create_model(name, **{**SMALL[name], "in_chans": 1, "num_classes": 7})
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("name", [*OURS, "pvt_small", "pvt_base"])
def test_there_are_no_pretrained_weights_and_no_unknown_options(name: str) -> None:
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        timm.create_model(name, pretrained=True, **SMALL.get(name, {}))
    with pytest.raises(TypeError, match="widht"):
        timm.create_model(name, widht=1)


# PVT.


@pytest.mark.parametrize(
    ("patch_size", "sides"), [(1, [32, 16, 8, 4]), (2, [16, 8, 4, 2]), (4, [8, 4, 2, 1])]
)
def test_pvt_maps_halve_from_stage_to_stage(patch_size: int, sides: list[int]) -> None:
    dims, heads = (8, 16, 24, 32), (1, 2, 3, 4)
    model = PyramidVisionTransformer(patch_size=patch_size, embed_dims=dims, num_heads=heads)
    shapes: list[tuple[int, ...]] = []
    for stage in model.stages:
        stage.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape)))
    model(torch.randn(2, 3, 32, 32))
    class_token = [0, 0, 0, 1]
    assert shapes == [
        (2, side**2 + extra, dim) for side, extra, dim in zip(sides, class_token, dims, strict=True)
    ]


def test_pvt_map_keeps_the_place_of_every_token() -> None:
    image = torch.randn(2, 5, 4, 4)
    assert torch.equal(to_map(image.flatten(2).transpose(1, 2)), image)


def plain_attention(module: SpatialReductionAttention, x: Tensor, context: Tensor) -> Tensor:
    """Softmax(q kᵀ / √d) v, head by head, from the module's weights."""
    q = module.q(x)
    k, v = module.kv(context).tensor_split(2, dim=-1)
    d = q.shape[-1] // module.num_heads
    heads = []
    for h in range(module.num_heads):
        part = slice(h * d, (h + 1) * d)
        weights = (q[..., part] @ k[..., part].mT / d**0.5).softmax(-1)
        heads.append(weights @ v[..., part])
    out: Tensor = module.proj(torch.cat(heads, dim=-1))
    return out


def test_pvt_attention_without_reduction_is_plain_attention() -> None:
    torch.manual_seed(0)
    module = SpatialReductionAttention(12, num_heads=3, size=4, sr_ratio=1)
    x = torch.randn(2, 1 + 16, 12)  # with a class token
    torch.testing.assert_close(module(x), plain_attention(module, x, x))


def test_pvt_reduction_that_picks_a_pixel_attends_to_those_pixels() -> None:
    """A 2x2 reduction that copies the upper left pixel leaves every second row and column."""
    torch.manual_seed(0)
    module = SpatialReductionAttention(12, num_heads=3, size=4, sr_ratio=2)
    nn.init.zeros_(module.reduction.weight)
    assert module.reduction.bias is not None
    nn.init.zeros_(module.reduction.bias)
    with torch.no_grad():
        module.reduction.weight[:, :, 0, 0] = torch.eye(12)
    image = torch.randn(2, 12, 4, 4)
    x = image.flatten(2).transpose(1, 2)
    picked = image[:, :, ::2, ::2].flatten(2).transpose(1, 2)
    expected = plain_attention(module, x, F.layer_norm(picked, (12,)))
    torch.testing.assert_close(module(x), expected)


def test_pvt_only_the_class_token_is_read_and_is_not_decayed() -> None:
    model: Any = small("pvt_tiny").eval()
    assert model.no_weight_decay() <= dict(model.named_parameters()).keys()
    tokens = torch.randn(1, 17, 96)
    other = torch.cat([tokens[:, :1], torch.randn(1, 16, 96)], dim=1)
    assert torch.equal(model.forward_head(tokens), model.forward_head(other))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 4, "sr_ratios": (16, 4, 2, 1)}, "sr_ratio 16 does not divide a 8x8 map"),
        ({"sr_ratios": (8, 3, 2, 1)}, "sr_ratio 3 does not divide a 16x16 map"),
        ({"sr_ratios": (8, 4, 2, 2)}, "class token needs an sr_ratio of 1"),
        ({"img_size": 36, "sr_ratios": (1, 1, 1, 1)}, "patch of 2 does not divide a 9x9 map"),
        ({"num_heads": (1, 3, 5, 8)}, "3 heads do not divide a width of 128"),
        ({"depths": (2, 2, 2)}, "shorter"),
    ],
)
def test_pvt_says_what_cannot_be_built(options: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        PyramidVisionTransformer(**options)


# CCT.


@pytest.mark.parametrize(("layers", "tokens"), [(1, 256), (2, 64), (3, 16)])
def test_cct_tokenizer_halves_the_map_per_layer(layers: int, tokens: int) -> None:
    assert Tokenizer(3, 24, layers)(torch.randn(2, 3, 32, 32)).shape == (2, tokens, 24)


def test_cct_pools_tokens_by_their_softmax_weight() -> None:
    torch.manual_seed(0)
    model = CompactConvolutionalTransformer(embed_dim=8, depth=1, num_heads=2)
    tokens = torch.randn(2, 5, 8)
    scores = tokens @ model.attention_pool.weight[0]
    expected = torch.einsum("bn,bnc->bc", scores.softmax(1), tokens)
    torch.testing.assert_close(model.forward_head(tokens, pre_logits=True), expected)


def test_cct_second_norm_replaces_the_residual_stream() -> None:
    """With both branches silent a layer is its second norm, not the identity."""
    model = CompactConvolutionalTransformer(embed_dim=8, depth=1, num_heads=2)
    block: Any = model.blocks[0]
    for branch in (block.attn.proj, block.mlp.fc2):
        nn.init.zeros_(branch.weight)
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(block(x), F.layer_norm(x, (8,)))


def test_cct_refuses_an_image_it_cannot_halve() -> None:
    with pytest.raises(ValueError, match="cannot halve 34 pixels 2 times"):
        CompactConvolutionalTransformer(img_size=34, tokenizer_layers=2)


# WRN.


def test_wrn28_10_is_three_groups_of_four_blocks() -> None:
    with torch.device("meta"):
        model = WideResNet()
    blocks = [m for m in model.modules() if isinstance(m, Block)]
    first = [b.conv1 for b in blocks]
    layout = [(c.in_channels, c.out_channels, c.stride[0]) for c in first]
    assert layout == [
        *[(16, 160, 1), *[(160, 160, 1)] * 3],
        *[(160, 320, 2), *[(320, 320, 1)] * 3],
        *[(320, 640, 2), *[(640, 640, 1)] * 3],
    ]
    assert all(b.conv2.in_channels == b.conv2.out_channels == b.bn2.num_features for b in blocks)
    assert [i for i, b in enumerate(blocks) if b.shortcut is not None] == [0, 4, 8]


@pytest.mark.parametrize(("stem_stride", "sides"), [(1, [32, 16, 8]), (2, [16, 8, 4])])
def test_wrn_maps_halve_from_group_to_group(stem_stride: int, sides: list[int]) -> None:
    model = WideResNet(depth=10, widen=1, stem_stride=stem_stride)
    maps = [model.stem(torch.randn(1, 3, 32, 32))]
    for group in model.groups:
        maps.append(group(maps[-1]))
    assert [x.shape[-1] for x in maps[1:]] == sides


def test_wrn_block_with_a_silent_branch_is_the_identity() -> None:
    block = Block(8, 8, stride=1, drop_path=0.0)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(block(x), x)


def test_wrn_shortcut_starts_after_the_first_activation() -> None:
    block = Block(8, 16, stride=2, drop_path=0.0).eval()
    nn.init.zeros_(block.conv2.weight)
    assert block.shortcut is not None
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(block(x), block.shortcut(block.bn1(x).relu()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 27}, r"6n \+ 4"),
        ({"depth": 4}, r"6n \+ 4"),
        ({"widen": 1.01}, "must be an integer"),
    ],
)
def test_wrn_refuses_impossible_sizes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WideResNet(**options)


@pytest.mark.parametrize("name", ["wrn28_10", "pyramidnet164_48"])
def test_convolutions_start_with_kaiming_fan_out(name: str) -> None:
    convolutions = [m for m in small(name).modules() if isinstance(m, nn.Conv2d)]
    for layer in convolutions:
        assert layer.bias is None
        fan_out = layer.out_channels * prod(layer.kernel_size)
        # The standard error of a deviation is 1 / √(2n) of it; four of them.
        tolerance = 4 / (2 * layer.weight.numel()) ** 0.5
        assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=tolerance)


# PyramidNet.


def test_pyramidnet_widths_grow_by_alpha_over_the_blocks() -> None:
    with torch.device("meta"):
        model = PyramidNet()
    blocks = [m for m in model.modules() if isinstance(m, Bottleneck)]
    widths = [block.conv1.out_channels for block in blocks]
    assert widths == bottleneck_widths(164, 48)
    assert len(widths) == 54
    assert widths[:9] == [17, 18, 19, 20, 20, 21, 22, 23, 24]  # 16 + 8 k / 9
    assert widths[17::18] == [32, 48, 64]
    assert [b.conv3.out_channels for b in blocks] == [4 * w for w in widths]
    assert [b.conv1.in_channels for b in blocks] == [16, *[4 * w for w in widths[:-1]]]
    assert [i for i, b in enumerate(blocks) if b.conv2.stride == (2, 2)] == [18, 36]


@pytest.mark.parametrize("stride", [1, 2])
def test_pyramidnet_shortcut_is_the_identity_padded_with_zeros(stride: int) -> None:
    block = Bottleneck(10, 4, stride, drop_path=0.0)
    nn.init.zeros_(block.bn4.weight)  # silences the branch
    x = torch.randn(2, 10, 8, 8)
    y = block(x)
    assert y.shape == (2, 16, 8 // stride, 8 // stride)
    torch.testing.assert_close(y[:, :10], F.avg_pool2d(x, stride))
    assert not y[:, 10:].any()


def test_pyramidnet_block_has_no_activation_at_its_ends() -> None:
    """Its first norm is followed by a convolution: the branch is odd until the first ReLU."""
    block = Bottleneck(16, 4, 1, drop_path=0.0).eval()
    seen: list[Tensor] = []
    block.bn2.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    x = torch.randn(2, 16, 8, 8)
    block(x)
    block(-x)
    torch.testing.assert_close(seen[0], -seen[1])


@pytest.mark.parametrize("depth", [2, 21, 163])
def test_pyramidnet_refuses_other_depths(depth: int) -> None:
    with pytest.raises(ValueError, match=r"9n \+ 2"):
        PyramidNet(depth=depth)
