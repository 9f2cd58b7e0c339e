"""Attention rollout: against a loop written down again, and the script's formulas as they are."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.interpret.rollout import attentions, gradient_rollout, roll, rollout
from repro.interpret.taps import InterpretError
from repro.models.nest import NesT
from tests.interpret import small_models as small

CLASSES = torch.tensor([3, 0])


def own_attentions(model: Any, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits and attentions of a timm ViT, its forward pass written down again."""
    x, kept = model.norm_pre(model._pos_embed(model.patch_embed(images))), []
    for block in model.blocks:
        attention = block.attn
        b, n, c = x.shape
        qkv = attention.qkv(block.norm1(x)).reshape(b, n, 3, attention.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)
        kept.append(weights)
        x = x + attention.proj((weights @ v).transpose(1, 2).reshape(b, n, c))
        x = x + block.mlp(block.norm2(x))
    return model.forward_head(model.norm(x)), kept


def looped(layers: list[Tensor], discard: float, prefix: int) -> Tensor:
    """Rollout of one image's fused attentions (N, N), entry by entry."""
    size = len(layers[0])
    rolled = torch.eye(size)
    for layer in layers:
        mixed = torch.zeros(size, size)
        order = layer.flatten().argsort()[: int(size * size * discard)].tolist()
        for row in range(size):
            for column in range(size):
                place = row * size + column
                gone = place in order and place != 0
                mixed[row, column] = 0.0 if gone else layer[row, column]
            mixed[row, row] += 1
            mixed[row] /= mixed[row].sum()
        rolled = mixed @ rolled
    return rolled[0, prefix:]


def script(layers: list[Tensor], discard: float) -> Tensor:
    """vit-explain's formulas on one image's fused attentions (1, N, N), defects and all."""
    result = torch.eye(layers[0].shape[-1])
    for layer in layers:
        flat = layer.clone().view(1, -1)
        _, indices = flat.topk(int(flat.shape[-1] * discard), -1, False)
        indices = indices[indices != 0]
        flat[0, indices] = 0
        a = (flat.view(layer.shape) + 1.0 * torch.eye(layer.shape[-1])) / 2
        a = a / a.sum(dim=-1)  # (1, N), along the columns of (1, N, N)
        result = torch.matmul(a, result)
    mask = result[0, 0, 1:]
    return mask / mask.max()


@pytest.mark.parametrize("discard", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("distilled", [False, True])
def test_rollout_is_the_loop(distilled: bool, fusion: Any, discard: float) -> None:
    model, images = small.deit(distilled), small.pictures(2)
    with torch.no_grad():
        _, kept = own_attentions(model, images)
    fuse = {"mean": lambda a: a.mean(0), "max": lambda a: a.amax(0), "min": lambda a: a.amin(0)}
    maps = rollout(model, images, fusion=fusion, discard=discard)
    assert maps.shape == (2, 4, 4)
    for image in range(2):
        layers = [fuse[fusion](layer[image]) for layer in kept]
        expected = looped(layers, discard, 2 if distilled else 1)
        torch.testing.assert_close(maps[image].flatten(), expected, rtol=1e-4, atol=1e-6)


def test_rollout_of_torchvision_is_that_of_timm_with_the_same_weights() -> None:
    theirs = small.torchvision_vit()
    model = copy.deepcopy(small.deit())
    for block, layer in zip(model.blocks, theirs.encoder.layers, strict=True):
        block.norm1, block.norm2 = layer.ln_1, layer.ln_2
        block.attn.qkv.weight, block.attn.qkv.bias = (
            layer.self_attention.in_proj_weight,
            layer.self_attention.in_proj_bias,
        )
        block.attn.proj = layer.self_attention.out_proj
        block.mlp = nn.Sequential(layer.mlp[0], nn.GELU(), layer.mlp[3])
    model.patch_embed.proj = theirs.conv_proj
    model.cls_token, model.pos_embed = theirs.class_token, theirs.encoder.pos_embedding
    images = small.pictures(2)
    ours = rollout(model.eval(), images, fusion="max", discard=0.3)
    torch.testing.assert_close(rollout(theirs, images, fusion="max", discard=0.3), ours)


@pytest.mark.parametrize("discard", [0.0, 0.6])
def test_rows_of_the_rollout_sum_to_one_and_the_scripts_do_not(discard: float) -> None:
    layers = torch.rand(3, 2, 9, 9).unbind(0)
    rolled = roll(layers)
    torch.testing.assert_close(rolled.sum(-1), torch.ones(2, 9))
    assert (roll(layers, strict_vit_explain=True).sum(-1) - 1).abs().max() > 0.05


@pytest.mark.parametrize("discard", [0.0, 0.9])
@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
def test_strict_is_the_script(fusion: Any, discard: float) -> None:
    model, images = small.deit(), small.pictures(2)
    with torch.no_grad():
        _, kept = own_attentions(model, images)
    fuse = {
        "mean": lambda a: a.mean(axis=1),
        "max": lambda a: a.max(axis=1)[0],
        "min": lambda a: a.min(axis=1)[0],
    }
    maps = rollout(model, images, fusion=fusion, discard=discard, strict_vit_explain=True)
    for image in range(2):
        expected = script([fuse[fusion](layer[image : image + 1]) for layer in kept], discard)
        torch.testing.assert_close(maps[image].flatten(), expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(maps, rollout(model, images, fusion=fusion, discard=discard))


def pairs(strict: bool) -> list[list[Tensor]]:
    """Of each image, relu(mean over heads of A · ∂logit/∂A), paired rightly or as the script."""
    logits, kept = own_attentions(small.deit(), small.pictures(2))
    chosen = logits.gather(1, CLASSES[:, None]).sum()
    slopes = list(torch.autograd.grad(chosen, kept))
    for_layer = slopes[::-1] if strict else slopes
    fused = [(a * g).detach().mean(1).relu() for a, g in zip(kept, for_layer, strict=True)]
    return [[layer[image] for layer in fused] for image in range(2)]


@pytest.mark.parametrize("discard", [0.0, 0.9])
def test_gradient_rollout_pairs_each_layer_with_its_own_gradient(discard: float) -> None:
    model, images = small.deit(), small.pictures(2)
    maps = gradient_rollout(model, images, CLASSES, discard=discard)
    other = [looped(one, discard, 1) for one in pairs(strict=True)]
    for image, layers in enumerate(pairs(strict=False)):
        expected = looped(layers, discard, 1)
        torch.testing.assert_close(maps[image].flatten(), expected, rtol=1e-3, atol=1e-7)
        assert not torch.allclose(expected, other[image], rtol=0.05)  # the pairing matters here


@pytest.mark.parametrize("discard", [0.0, 0.9])
def test_strict_gradient_rollout_is_the_script(discard: float) -> None:
    model, images = small.deit(), small.pictures(2)
    maps = gradient_rollout(model, images, CLASSES, discard=discard, strict_vit_explain=True)
    for image, layers in enumerate(pairs(strict=True)):
        expected = script([layer[None] for layer in layers], discard)
        torch.testing.assert_close(maps[image].flatten(), expected, rtol=1e-3, atol=1e-6)


def test_a_batch_is_the_loop_over_its_images() -> None:
    model, images = small.deit(), small.pictures(3)
    labels = torch.tensor([0, 1, 2])
    ones = [images[i : i + 1] for i in range(3)]
    for discard in (0.0, 0.9):  # the script's indexing takes one image at a time
        batch = rollout(model, images, fusion="max", discard=discard)
        each = torch.cat([rollout(model, one, fusion="max", discard=discard) for one in ones])
        torch.testing.assert_close(batch, each)
    batch = gradient_rollout(model, images, labels)
    loop = [gradient_rollout(model, ones[i], labels[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(batch, torch.cat(loop), rtol=1e-4, atol=1e-7)


def test_the_model_keeps_its_fused_attention_even_if_the_pass_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = copy.deepcopy(small.deit())
    model.blocks[1].attn.fused_attn = False
    before = [block.attn.fused_attn for block in model.blocks]
    assert before[0], "timm's default: or the test shows nothing"
    rollout(model, small.pictures(1))
    assert [block.attn.fused_attn for block in model.blocks] == before
    monkeypatch.setattr(F, "softmax", None)
    monkeypatch.setattr(Tensor, "softmax", None)
    with pytest.raises(TypeError):
        rollout(model, small.pictures(1))
    assert [block.attn.fused_attn for block in model.blocks] == before
    assert not any(layer._forward_hooks for layer in model.modules())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (small.torchvision_resnet50, "ResNet has no attention layer that can be recorded"),
        (small.our_nest, "NesT has no attention layer that can be recorded"),
        (small.timm_nest, "attends in windows"),
        (
            lambda: timm.create_model(
                "vit_tiny_patch16_224", img_size=32, depth=1, class_token=False, global_pool="avg"
            ).eval(),
            "needs a class token, and this model has none",
        ),
    ],
)
def test_a_model_without_rollout_is_refused(build: Any, message: str) -> None:
    model: NesT = build()
    with pytest.raises(InterpretError, match=message):
        rollout(model, small.pictures(1))


def test_bad_arguments_are_named() -> None:
    model, images = small.deit(), small.pictures(1)
    with pytest.raises(InterpretError, match=r"discard must be in \[0, 1\), not 1\.0"):
        rollout(model, images, discard=1.0)
    with pytest.raises(InterpretError, match="fusion is 'mean', 'max' or 'min', not 'median'"):
        rollout(model, images, fusion="median")  # type: ignore[arg-type]
    with pytest.raises(InterpretError, match="one token before the patches, not 2"):
        rollout(small.deit(distilled=True), images, strict_vit_explain=True)
    with pytest.raises(InterpretError, match="do not depend on layer 0"):
        gradient_rollout(small.torchvision_vit(), images, 0)
    model = copy.deepcopy(model)
    nn.init.zeros_(model.head.weight)
    with pytest.raises(InterpretError, match="gradient rollout is empty"):
        gradient_rollout(model, images, 0)


def test_attentions_are_probabilities() -> None:
    for model in (small.deit(), small.torchvision_vit()):
        taps = attentions(model, small.pictures(2))
        assert len(taps.outputs) == 3
        for layer in taps.outputs:
            torch.testing.assert_close(layer.sum(-1), torch.ones(2, 3, 17))
