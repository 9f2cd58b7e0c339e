"""CAM and Grad-CAM++: the logit's own identity, closed forms, and the library grad-cam."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from repro.interpret.cam import cam, grad_cam_pp, hires_cam
from repro.interpret.taps import InterpretError
from tests import DEVICES
from tests.interpret import small_models as small

CLASSES = torch.tensor([3, 0, 4])

POOLED: dict[str, Callable[[], Any]] = {
    "our nest": small.our_nest,
    "our deep nest": small.our_deep_nest,
    "timm nest": small.timm_nest,
    "torchvision resnet": small.torchvision_resnet50,
    "timm resnet": small.timm_resnet50,
    "timm swin": lambda: small.shaken(
        timm.create_model(
            "swin_tiny_patch4_window7_224",
            img_size=64,
            window_size=2,
            depths=(1,) * 4,
            embed_dim=24,
            num_heads=(2,) * 4,
            num_classes=5,
        )
    ),
    "torchvision swin": lambda: small.shaken(
        torchvision.models.SwinTransformer([4, 4], 24, [1] * 4, [2] * 4, [2, 2], num_classes=5)
    ),
    "mobilenet": lambda: small.shaken(torchvision.models.mobilenet_v2(num_classes=5)),
    "densenet, which ends in a functional ReLU in place": lambda: small.shaken(
        torchvision.models.DenseNet(8, (1, 1, 1, 1), 8, num_classes=5)
    ),
    "our wide resnet": lambda: small.shaken(
        timm.create_model("wrn28_10", depth=10, widen=0.5, num_classes=5)
    ),
    "our pyramidnet": lambda: small.shaken(
        timm.create_model("pyramidnet164_48", depth=11, alpha=8, num_classes=5)
    ),
    "patches averaged": lambda: small.shaken(
        timm.create_model(
            "vit_tiny_patch16_224",
            img_size=32,
            patch_size=8,
            depth=1,
            embed_dim=24,
            num_heads=2,
            num_classes=5,
            global_pool="avg",
            fc_norm=False,
        )
    ),
}
SIDES = {"our nest": 32, "our deep nest": 32, "timm nest": 32, "patches averaged": 32}


def library(kind: Any, model: nn.Module, layer: nn.Module, images: Tensor, reshape: Any) -> Tensor:
    """The library's raw map, before its ReLU and scaling, (B, h, w)."""
    with kind(model, [layer], reshape_transform=reshape) as explainer:
        outputs = explainer.activations_and_grads(images)
        targets = [ClassifierOutputTarget(int(label)) for label in CLASSES]
        sum(target(output) for target, output in zip(targets, outputs, strict=True)).backward()
        a = explainer.activations_and_grads.activations[0].numpy()
        g = explainer.activations_and_grads.gradients[0].numpy()
        result = explainer.get_cam_image(images, layer, targets, a, g)
    model.zero_grad(set_to_none=True)
    return torch.from_numpy(np.asarray(result))


def close(ours: Tensor, theirs: Tensor, bound: float) -> None:
    """Equal to within `bound` of the largest value."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= bound * theirs.abs().max()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", POOLED)
def test_the_mean_of_a_cam_plus_the_bias_is_the_logit(name: str, device: str) -> None:
    model = POOLED[name]().to(device)
    images = small.pictures(3, SIDES.get(name, 64))
    maps = cam(model, images, CLASSES)
    head = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    with torch.no_grad():
        logits = model(images.to(device)).cpu()
    found = maps.mean((1, 2)).cpu() + head.bias.detach().cpu()[CLASSES]
    model.cpu()
    assert min(maps.shape[1:]) > 1
    close(found, logits.gather(1, CLASSES[:, None])[:, 0], 2e-5)


@pytest.mark.parametrize("name", ["our nest", "timm nest", "torchvision resnet", "timm resnet"])
def test_cam_is_the_librarys_grad_cam_before_its_relu(name: str) -> None:
    """There the gradient is W_c / (h·w) everywhere; NesT's `norm` gives NHWC."""
    model, nest = POOLED[name](), "nest" in name.split()
    images = small.pictures(3, SIDES.get(name, 64))
    layer = model.norm if nest else model.layer4
    reshape = (lambda output: output.permute(0, 3, 1, 2)) if nest else None
    maps = cam(model, images, CLASSES)
    theirs = library(GradCAM, model, layer, images, reshape)
    close(maps / maps[0].numel(), theirs, 1e-5)


@pytest.mark.parametrize("name", ["torchvision resnet", "timm swin", "our nest", "our wide resnet"])
def test_hires_cam_is_cam_over_the_number_of_positions(name: str) -> None:
    model, images = POOLED[name](), small.pictures(3, SIDES.get(name, 64))
    maps = cam(model, images, CLASSES)
    close(hires_cam(model, images, CLASSES), maps / maps[0].numel(), 1e-5)


def test_hires_cam_of_pooling_by_weights_is_gradient_times_tokens() -> None:
    """CCT pools tokens by a softmax of their own; with equal weights it would be CAM."""
    model: Any = small.shaken(timm.create_model("cct_7_3x1", embed_dim=24, num_heads=2, depth=1))
    images = small.pictures(2)
    tokens = model.forward_features(images).detach().requires_grad_()
    (g,) = torch.autograd.grad(model.forward_head(tokens)[:, 3].sum(), tokens)
    close(hires_cam(model, images, 3), (g * tokens).sum(2).detach().unflatten(1, (16, 16)), 1e-4)
    with torch.no_grad():
        model.attention_pool.weight.zero_()
    maps = cam(model, images, 3)
    close(hires_cam(model, images, 3), maps / maps[0].numel(), 1e-4)


@pytest.mark.parametrize("name", ["torchvision resnet", "timm resnet", "our nest"])
def test_grad_cam_pp_is_the_librarys(name: str) -> None:
    model = POOLED[name]()
    nest = name == "our nest"
    images = small.pictures(3, SIDES.get(name, 64))
    layer = model.norm if nest else model.layer4
    reshape = (lambda output: output.permute(0, 3, 1, 2)) if nest else None
    theirs = library(GradCAMPlusPlus, model, layer, images, reshape).relu()
    assert theirs.any()
    close(grad_cam_pp(model, images, CLASSES), theirs, 1e-5)


@pytest.mark.parametrize("layer", ["layer2", "layer3.1.bn2"])
def test_grad_cam_pp_of_an_inner_layer_is_the_librarys(layer: str) -> None:
    """Where the gradient varies over positions; the ReLU after bn2 writes in place."""
    model = small.torchvision_resnet50()
    images = small.pictures(3, 64)
    ours = grad_cam_pp(model, images, CLASSES, layer=layer)
    for block in model.modules():
        if isinstance(block, nn.ReLU):
            block.inplace = False  # or what the library keeps is what ReLU left there
    try:
        theirs = library(GradCAMPlusPlus, model, model.get_submodule(layer), images, None).relu()
    finally:
        small.torchvision_resnet50.cache_clear()
    close(ours, theirs, 1e-4)


@pytest.mark.parametrize("eps", [0.0, 1e-6, 1e-12])
def test_grad_cam_pp_has_a_closed_form_above_pooling_and_a_linear_layer(eps: float) -> None:
    """There g is w / (h·w), so only positive weights count: α = g² / (2g² + S g³ + eps)."""
    model = small.torchvision_resnet50().double()
    images = small.pictures(3, 64).double()
    ours = grad_cam_pp(model, images, CLASSES, layer="layer4", eps=eps)
    body = nn.Sequential(*list(model.children())[:-2])
    with torch.no_grad():
        a, g = body(images), model.fc.weight[CLASSES] / 4  # 2 x 2 positions
    s = a.sum((2, 3))
    weight = 4 * g.clamp(min=0) * g**2 / (2 * g**2 + s * g**3 + eps)
    expected = (weight[:, :, None, None] * a).sum(1).clamp(min=0)
    model.float()
    close(ours, expected, 1e-12)


def test_grad_cam_pp_of_tokens_drops_those_ahead_of_the_patches() -> None:
    """Of a ViT, patch (r, c) is token 1 + 4 r + c; recomputed by hand from the last block on."""
    model, images = small.deit(), small.pictures(2)
    maps = grad_cam_pp(model, images, [1, 2], layer="blocks.2.norm1", eps=0.0)
    with torch.no_grad():
        x = model.blocks[:2](model.norm_pre(model._pos_embed(model.patch_embed(images))))
    block = model.blocks[2]
    a = block.norm1(x).detach().requires_grad_()
    y = x + block.attn(a)
    logits = model.forward_head(model.norm(y + block.mlp(block.norm2(y))))
    (g,) = torch.autograd.grad(logits[0, 1] + logits[1, 2], a)
    a, g = a.detach()[:, 1:], g[:, 1:]
    alpha = g**2 / (2 * g**2 + a.sum(1, keepdim=True) * g**3)
    expected = ((alpha * g.relu()).sum(1, keepdim=True) * a).sum(2).relu().view(2, 4, 4)
    assert maps.any()
    close(maps, expected, 1e-4)


@pytest.mark.parametrize("method", [cam, grad_cam_pp])
@pytest.mark.parametrize("name", ["our nest", "torchvision resnet", "timm resnet"])
def test_a_batch_is_the_loop_over_its_images(name: str, method: Any) -> None:
    model, images = POOLED[name](), small.pictures(3, SIDES.get(name, 64))
    batch = method(model, images, CLASSES)
    loop = [method(model, images[i : i + 1], CLASSES[i : i + 1]) for i in range(3)]
    assert not torch.equal(batch[0], batch[1])
    close(batch, torch.cat(loop), 1e-4)


def test_images_need_not_be_square() -> None:
    model = small.timm_resnet50()
    images = small.pictures(2, 64, width=160)
    assert cam(model, images, 0).shape == grad_cam_pp(model, images, 0).shape == (2, 2, 5)


def test_half_precision_is_allowed_its_rounding() -> None:
    model, images = small.our_nest(), small.pictures(2)
    whole = cam(model, images, 1)
    with torch.autocast("cpu", torch.bfloat16):
        half = cam(model, images, 1)
    close(half.float(), whole, 0.2)


@pytest.mark.parametrize(
    "build",
    [
        small.deit,
        lambda: small.shaken(timm.create_model("convnext_atto", num_classes=5)),
        lambda: small.shaken(timm.create_model("pvt_tiny", img_size=64, depths=(1,) * 4)),
        lambda: small.shaken(timm.create_model("cct_7_3x1", img_size=64, depth=1)),
        lambda: small.shaken(torchvision.models.vgg11(num_classes=5)),
        lambda: small.shaken(timm.create_model("resnet10t", num_classes=5, global_pool="max")),
    ],
    ids=[
        "class token",
        "norm after pooling",
        "last stage",
        "weighted",
        "two linear",
        "maximum",
    ],
)
def test_a_model_without_cam_is_refused(build: Callable[[], nn.Module]) -> None:
    model = build()
    side = 32 if isinstance(model, timm.models.VisionTransformer) else 64
    with pytest.raises(InterpretError, match=r"^no CAM"):
        cam(model, small.pictures(2, side), 0)


def test_the_layer_that_is_not_pooled_is_refused() -> None:
    model, images = small.torchvision_resnet50(), small.pictures(2, 64)
    torch.testing.assert_close(cam(model, images, 1, layer="layer4"), cam(model, images, 1))
    with pytest.raises(InterpretError, match="bias misses the logit of image"):
        cam(model, images, 1, layer="layer4.2.bn3")
    with pytest.raises(InterpretError, match="1024 channels, the linear layer takes 2048"):
        cam(model, images, 1, layer="layer3")


def test_a_layout_that_the_shape_does_not_tell_must_be_said() -> None:
    """A map of 24 channels and 24 x 24 positions reads both ways, and only one is right."""
    model = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5)
    ).eval()
    images = small.pictures(2, 24)
    with pytest.raises(InterpretError, match="reads as NCHW and as NHWC: pass layout="):
        cam(model, images, 0)
    assert cam(model, images, 0, layout="NCHW").shape == (2, 24, 24)
    with pytest.raises(InterpretError, match="misses the logit"):
        cam(model, images, 0, layout="NHWC")


def test_a_layer_the_logit_does_not_see_is_refused() -> None:
    """Of a ViT's last norm only the class token counts: its patches would give an empty map."""
    with pytest.raises(InterpretError, match="logit of image 0 does not depend on layer 'norm'"):
        grad_cam_pp(small.deit(), small.pictures(2), 0, layer="norm")
