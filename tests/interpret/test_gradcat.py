"""GradCAT: Algorithm 1 written down again, its identities, and objects planted where we know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from repro.interpret.cam import cam
from repro.interpret.gradcat import GradCat, block_means, children, gradcat
from repro.interpret.taps import InterpretError, gradients, tap
from repro.models.aggregation import blockify, unblockify
from repro.models.nest import NesT, from_timm
from tests import DEVICES
from tests.interpret import small_models as small

CLASSES = torch.tensor([3, 0, 4])
TAPS = [(top, below) for top in ("input", "norm") for below in ("output", "input")]


def hierarchies(model: NesT, images: Tensor) -> dict[str, Tensor]:
    """Every map that A_l may be, (B, H, W, C), by 'input 2', 'output 1', 'norm'; and the logits."""
    maps = {}
    x = model.patch_embed(images).permute(0, 2, 3, 1)
    for level, transformer in enumerate(model.transformers):
        maps[f"input {level}"] = x
        blocks = blockify(x, model.block_side) + model.pos_embed[level]
        x = maps[f"output {level}"] = unblockify(transformer(blocks), model.block_side)
        if level < len(model.aggregations):
            x = model.aggregations[level](x)
    maps["norm"] = model.norm(x)
    maps["logits"] = model.head(maps["norm"].mean((1, 2)))
    return maps


def algorithm(
    model: NesT, image: Tensor, label: int, top_tap: str, below: str, sign: int
) -> tuple[list[int], list[list[float]]]:
    """The path of one image, and the four values at each step, part by part as in Algorithm 1."""
    maps = hierarchies(model, image[None])
    top = len(model.transformers) - 1
    path, values = [], []
    names = ["norm" if top_tap == "norm" else f"{top_tap} {top}"]
    names += [f"{below} {level}" for level in range(top - 1, 0, -1)]
    row, column = 0, 0  # of the part at hand, in parts of its size
    for step, name in enumerate(names):
        a = maps[name]
        (slope,) = torch.autograd.grad(maps["logits"][0, label], a, retain_graph=True)
        side = a.shape[1] // 2**step
        place = (0, slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side))
        h, half = (sign * a * slope)[place], side // 2
        quarters = (h[:half, :half], h[:half, half:], h[half:, :half], h[half:, half:])
        values.append([quarter.mean().item() for quarter in quarters])
        path.append(max(range(4), key=values[-1].__getitem__))
        row, column = 2 * row + path[-1] // 2, 2 * column + path[-1] % 2
    return path, values


@pytest.mark.parametrize(("top_tap", "below"), TAPS)
@pytest.mark.parametrize("sign", ["ascent", "literal"])
@pytest.mark.parametrize("build", [small.our_nest, small.our_deep_nest])
def test_gradcat_is_algorithm_1(
    build: Callable[[], Any], sign: Any, top_tap: Any, below: Any
) -> None:
    model, images = build(), small.pictures(3)
    tree = gradcat(model, images, CLASSES, sign=sign, top_tap=top_tap, tap_below=below)
    assert tree.decided.all()
    assert tree.reasons() == ["", "", ""]
    for image in range(3):
        factor = 1 if sign == "ascent" else -1
        label = int(CLASSES[image])
        path, values = algorithm(model, images[image], label, top_tap, below, factor)
        assert tree.path[image].tolist() == path
        scale = torch.tensor(values).abs().max().item()
        torch.testing.assert_close(
            tree.choices[image], torch.tensor(values), rtol=1e-3, atol=1e-4 * scale
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("top_tap", "below"), TAPS)
def test_timms_nest_has_the_tree_of_ours_with_its_weights(
    top_tap: Any, below: Any, device: str
) -> None:
    theirs = small.timm_nest().to(device)
    ours = from_timm(theirs.state_dict(), drop_path_rate=0.0).eval().to(device)
    images = small.pictures(3)
    trees = [
        gradcat(model, images, CLASSES, top_tap=top_tap, tap_below=below)
        for model in (theirs, ours)
    ]
    theirs.cpu()
    assert torch.equal(trees[0].path, trees[1].path)
    assert torch.equal(trees[0].leaf, trees[1].leaf)
    for a, b in zip(trees[0].nodes, trees[1].nodes, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


@pytest.mark.parametrize("build", [small.our_nest, small.our_deep_nest, small.timm_nest])
def test_after_the_norm_the_top_values_are_those_of_the_cam(build: Callable[[], Any]) -> None:
    model, images = build(), small.pictures(3)
    maps = cam(model, images, CLASSES)
    tree = gradcat(model, images, CLASSES, top_tap="norm", reduction="sum")
    expected = block_means(maps, 2) / maps[0].numel()
    assert (tree.nodes[0] - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_ahead_of_the_norm_activation_times_gradient_cancels_so_it_is_refused() -> None:
    """Layer norm does not see the scale of its input; after it, nothing cancels."""
    model, images = small.our_nest(), small.pictures(3)
    taps = tap(model, images, ["transformers.2", "norm"])
    before, after = (
        (a * g).sum(-1).abs().max()
        for a, g in zip(taps.outputs, gradients(taps, CLASSES), strict=True)
    )
    assert before < 1e-5 * after
    with pytest.raises(InterpretError, match="before a layer norm sums to 0"):
        gradcat(model, images, CLASSES, top_tap="output")


@pytest.mark.parametrize("build", [small.our_nest, small.our_deep_nest])
def test_ahead_of_layers_it_is_minus_what_they_add(build: Callable[[], Any]) -> None:
    """At each position, a layer norm hides the scale of the sum of what came in, the position
    embedding, and what each layer adds; so activation times gradient of all these sums to 0."""
    model, images = build(), small.pictures(3)
    top = len(model.transformers) - 1
    layers = range(len(model.transformers[top]))
    added = [f"transformers.{top}.{n}.{branch}" for n in layers for branch in ("attn", "mlp")]
    taps = tap(model, images, [f"aggregations.{top - 1}", *added])
    came, *slopes = gradients(taps, CLASSES)
    embedding = unblockify(model.pos_embed[top], model.block_side)
    input_h = (taps.outputs[0] * came).sum(-1)
    added_h = (embedding * came).sum(-1)
    for output, slope in zip(taps.outputs[1:], slopes, strict=True):
        added_h += unblockify((output * slope).sum(-1, keepdim=True), model.block_side)[..., 0]
    assert (input_h + added_h).abs().max() < 1e-4 * input_h.abs().max()


@pytest.mark.parametrize("build", [small.our_nest, small.timm_nest, small.our_deep_nest])
def test_the_tree_holds_together(build: Callable[[], Any]) -> None:
    """The values between which each step decides are nodes; their indices run row by row."""
    model, images = build(), small.pictures(8)
    tree = gradcat(model, images, 1)
    steps = tree.path.shape[1]
    assert [tuple(grid.shape) for grid in tree.nodes] == [
        (8, 2**depth, 2**depth) for depth in range(1, steps + 1)
    ]
    for image in range(8):
        row, column = 0, 0
        for step in range(steps):
            grid = tree.nodes[step][image]
            four = [grid[2 * row + n // 2, 2 * column + n % 2].item() for n in range(4)]
            assert tree.choices[image, step].tolist() == four
            child = int(tree.path[image, step])
            assert four[child] == max(four)
            row, column = 2 * row + child // 2, 2 * column + child % 2
            assert tree.block(step + 1)[image].tolist() == [row, column]
        assert tree.leaf[image].tolist() == [row, column]
    assert len(tree.leaf.unique(dim=0)) > 1, "or the images are all alike, which shows nothing"


def test_the_literal_sign_turns_the_values_and_takes_the_least() -> None:
    model, images = small.our_nest(), small.pictures(8)
    tree, literal = (gradcat(model, images, 2, sign=sign) for sign in ("ascent", "literal"))
    assert (literal.sign, tree.sign) == ("literal", "ascent")
    assert torch.equal(literal.path[:, 0], tree.nodes[0].flatten(1).argmin(1))
    for a, b in zip(tree.nodes, literal.nodes, strict=True):
        assert torch.equal(a, -b)


def test_the_sum_over_channels_is_the_mean_times_their_number() -> None:
    model, images = small.our_nest(), small.pictures(4)
    mean, total = (gradcat(model, images, 2, reduction=how) for how in ("mean", "sum"))
    assert torch.equal(mean.path, total.path)
    for a, b, channels in zip(mean.nodes, total.nodes, (96, 64), strict=True):
        torch.testing.assert_close(a * channels, b)


def test_rectified_values_are_means_of_what_is_positive() -> None:
    model, images = small.our_nest(), small.pictures(4)
    rectified = gradcat(model, images, 2, top_tap="norm", reduction="sum", rectified=True)
    maps = cam(model, images, 2).relu()
    torch.testing.assert_close(rectified.nodes[0], block_means(maps, 2) / maps[0].numel())


@pytest.mark.parametrize("build", [small.our_nest, small.timm_nest])
def test_a_batch_is_the_loop_over_its_images(build: Callable[[], Any]) -> None:
    model, images = build(), small.pictures(3)
    batch = gradcat(model, images, CLASSES)
    for i in range(3):
        alone = gradcat(model, images[i : i + 1], CLASSES[i : i + 1])
        assert torch.equal(alone.path[0], batch.path[i])
        for a, b in zip(alone.nodes, batch.nodes, strict=True):
            torch.testing.assert_close(a[0], b[i], rtol=1e-3, atol=1e-4 * b.abs().max().item())


@settings(max_examples=50)
@given(depth=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_children_are_the_four_blocks_within(depth: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    side = 2**depth
    grid = torch.randn(3, side, side, generator=generator)
    parent = torch.randint(0, side // 2, (3, 2), generator=generator)
    four = children(grid, parent)
    for image in range(3):
        row, column = (2 * parent[image]).tolist()
        assert torch.equal(four[image], grid[image, row : row + 2, column : column + 2].flatten())


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (small.torchvision_resnet50, {}, "walks the tree of NesT, ours or timm's; ResNet has none"),
        (small.our_nest, {"sign": "minus"}, "sign is 'ascent' or 'literal', not 'minus'"),
        (small.our_nest, {"top_tap": "pool"}, "top_tap is 'input' or 'norm', not 'pool'"),
        (small.our_nest, {"tap_below": "norm"}, "tap_below is 'output' or 'input', not 'norm'"),
        (small.our_nest, {"reduction": "max"}, "reduction is 'mean' or 'sum', not 'max'"),
        (lambda: NesT(depths=(1,), img_size=32, patch_size=8).eval(), {}, "this NesT has one"),
        (
            lambda: NesT(depths=(1, 1), img_size=12, patch_size=2).eval(),
            {},
            "3×3 tokens do not divide into 2×2 blocks",
        ),
    ],
)
def test_bad_arguments_are_named(build: Callable[[], Any], options: Any, message: str) -> None:
    model: nn.Module = build()
    side = model.img_size if isinstance(model, NesT) else 32
    with pytest.raises(InterpretError, match=message):
        gradcat(model, small.pictures(1, int(side)), 0, **options)


def test_a_depth_outside_the_path_is_named() -> None:
    tree: GradCat = gradcat(small.our_nest(), small.pictures(1), 0)
    with pytest.raises(InterpretError, match="a path has depths 1 to 2, not 3"):
        tree.block(3)
