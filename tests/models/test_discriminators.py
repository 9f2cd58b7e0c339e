"""SAGAN's convnets, HiT-GAN's discriminator and spectral normalisation, beside plain formulas."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import repro.models  # noqa: F401  (registers the architectures)
from repro.models import hit, sagan
from repro.models.spectral import advance_spectral_norms, spectrally_normalize

SMALL_DECODER = {"img_size": 16, "latent_dim": 6, "widths": (10, 8, 4)}


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("sagan_decoder_64", {}, 78_090_015),
        ("sagan_decoder_64", {"widths": (1536, 1536, 864, 432, 216)}, 77_927_523),
        ("sagan_decoder_64", {"widths": (2640, 1320, 660, 330, 165)}, 77_992_368),
        ("sagan_decoder_64", {"widths": (1616, 1616, 808, 404, 202), "latent_dim": 128},
         77_832_623),
        ("sagan_discriminator_64", {}, 19_542_721),
        ("sagan_discriminator_64", {"widths": (128, 256, 512, 1024, 2048)}, 78_153_089),
        ("hit_discriminator_64", {}, 23_408_897),
        ("hit_discriminator_64", {"widths": (512,) * 5}, 26_496_513),
    ],
)  # fmt: skip
def test_parameters(name: str, options: dict[str, object], parameters: int) -> None:
    with torch.device("meta"):
        net = timm.create_model(name, **options)
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "giga_macs"),
    [
        ("sagan_decoder_64", 17.05),
        ("sagan_discriminator_64", 1.10),
        ("hit_discriminator_64", 7.88),
    ],
)
def test_multiply_adds(name: str, giga_macs: float) -> None:
    with torch.device("meta"):
        net = timm.create_model(name)
        x = torch.empty(1, 256) if "decoder" in name else torch.empty(1, 3, 64, 64)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(x)
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga_macs, rel=0.005)


# --- each beside its formula ---------------------------------------------------------------------


def w(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight, as it is used, and bias."""
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    return weight, bias


def norm(x: Tensor, module: nn.BatchNorm2d) -> Tensor:
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
    x = (x - mean) / (var + 1e-5).sqrt()
    return x * module.weight.view(1, -1, 1, 1) + module.bias.view(1, -1, 1, 1)


def twice(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_the_decoder_is_sagan_s() -> None:
    """Up-sampling before every convolution, the shortcut's among them, as the published code."""
    torch.manual_seed(0)
    net = sagan.SaganDecoder(**SMALL_DECODER).train()  # type: ignore[arg-type]
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    advance_spectral_norms(net)
    z = torch.randn(3, 6)
    x = F.linear(z, *w(net.latent_embed)).view(3, 10, 4, 4)
    for block in net.blocks:
        assert isinstance(block, sagan.Up)
        y = F.conv2d(twice(norm(x, block.norm1).relu()), *w(block.conv1), padding=1)
        y = F.conv2d(norm(y, block.norm2).relu(), *w(block.conv2), padding=1)
        x = y + F.conv2d(twice(x), *w(block.shortcut))
    expected = F.conv2d(norm(x, net.norm).relu(), *w(net.to_rgb), padding=1).tanh()
    torch.testing.assert_close(net(z), expected, rtol=1e-4, atol=1e-5)
    assert expected.shape == (3, 3, 16, 16)


@pytest.mark.parametrize("last", [6, 8])
def test_the_discriminator_is_sagan_s(last: int) -> None:
    """Convolutions before the pools, the shortcut's among them; the last map is summed.

    Where the last block keeps the width, its input is added as it is.
    """
    torch.manual_seed(0)
    net = sagan.SaganDiscriminator(16, (4, 6, last))
    images = torch.randn(2, 3, 16, 16)
    x = images
    for place, block in enumerate(net.blocks):
        assert isinstance(block, sagan.Down)
        y = F.conv2d(x if place == 0 else x.relu(), *w(block.conv1), padding=1)
        y = F.conv2d(y.relu(), *w(block.conv2), padding=1)
        y = y + (x if (place, last) == (2, 6) else F.conv2d(x, *w(block.shortcut)))
        x = F.avg_pool2d(y, 2) if place < 2 else y
    expected = F.linear(x.relu().sum((2, 3)), *w(net.head))
    net.eval()
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-5)


def test_the_discriminator_is_hit_s() -> None:
    torch.manual_seed(0)
    net = hit.HitDiscriminator(16, (4, 6, 8), dense=5)
    images = torch.randn(2, 3, 16, 16)
    x = F.leaky_relu(F.conv2d(images, *w(net.from_rgb), padding=1), 0.2)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8

    def blur(x: Tensor) -> Tensor:
        """Along the rows, then along the columns, every second one."""
        channels = x.shape[1]
        rows = taps.view(1, 1, 1, 4).expand(channels, 1, 1, 4)
        x = F.conv2d(x, rows, padding=(0, 1), groups=channels)
        x = F.conv2d(x, rows.transpose(2, 3), padding=(1, 0), groups=channels)
        return x[:, :, ::2, ::2]

    for block in net.blocks:
        assert isinstance(block, hit.Down)
        y = blur(F.leaky_relu(F.conv2d(x, *w(block.conv1), padding=1), 0.2))
        y = F.leaky_relu(F.conv2d(y, *w(block.conv2), padding=1), 0.2)
        x = (y + F.conv2d(blur(x), block.shortcut.weight)) * 0.5**0.5
    x = F.leaky_relu(F.conv2d(x, *w(net.last), padding=1), 0.2).flatten(1)
    expected = F.linear(F.leaky_relu(F.linear(x, *w(net.dense)), 0.2), *w(net.head))
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 5])
def test_the_blur_is_a_depthwise_convolution(channels: int) -> None:
    """Every output pixel is the weighted sum of the 4×4 around it, one to the upper left."""
    torch.manual_seed(0)
    x = torch.randn(2, channels, 6, 8, dtype=torch.float64)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
    padded = F.pad(x, (1, 1, 1, 1))
    windows = padded.unfold(2, 4, 2).unfold(3, 4, 2)
    expected = torch.einsum("bchwij,i,j->bchw", windows, taps, taps)
    torch.testing.assert_close(hit.BlurPool().double()(x), expected)


def test_the_blur_is_no_part_of_a_checkpoint() -> None:
    assert not hit.BlurPool().state_dict()


def test_a_blurred_constant_is_that_constant_inside() -> None:
    plane = hit.BlurPool()(torch.full((1, 2, 8, 8), 3.0))
    torch.testing.assert_close(plane[:, :, 1:-1, 1:-1], torch.full((1, 2, 2, 2), 3.0))


def test_the_gradient_is_differentiable_by_weights_and_images() -> None:
    torch.manual_seed(0)
    net = hit.HitDiscriminator(8, (2, 3), dense=2).double()
    names = [name for name, _ in net.named_parameters()]
    weights = [weight.detach().requires_grad_() for weight in net.parameters()]
    images = torch.randn(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)

    def logits(images: Tensor, *weights: Tensor) -> Tensor:
        call = dict(zip(names, weights, strict=True))
        out: Tensor = torch.func.functional_call(net, call, (images,))
        return out

    # The fast mode: one random direction in place of every entry of the Jacobian.
    assert torch.autograd.gradcheck(logits, (images, *weights), fast_mode=True)
    assert torch.autograd.gradgradcheck(logits, (images, *weights), fast_mode=True)


@pytest.mark.parametrize("name", ["hit", "sagan"])
def test_the_gradient_of_the_loss_and_the_penalty_reaches_every_weight(name: str) -> None:
    torch.manual_seed(0)
    net: nn.Module
    if name == "hit":
        net = hit.HitDiscriminator(16, (4, 6, 8), dense=5)
    else:
        net = sagan.SaganDiscriminator(16, (4, 6, 8))
        advance_spectral_norms(net)
    images = torch.randn(4, 3, 16, 16, requires_grad=True)
    logits = net(images)
    assert logits.shape == (4, 1)
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    (F.softplus(-logits).sum() + gradient.square().sum()).backward()
    for key, weight in net.named_parameters():
        assert weight.grad is not None, key
        assert weight.grad.isfinite().all(), key
        assert weight.grad.any(), key


def test_the_penalty_differentiates_twice() -> None:
    """R1's gradient by the weights, beside finite differences, in float64."""
    torch.manual_seed(0)
    net = hit.HitDiscriminator(8, (3, 4), dense=4).double()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)

    def penalty() -> Tensor:
        (gradient,) = torch.autograd.grad(net(images).sum(), images, create_graph=True)
        return gradient.square().sum()

    penalty().backward()
    weight, step = net.get_parameter("blocks.0.conv1.weight"), 1e-6
    assert weight.grad is not None
    found = weight.grad[0, 0, 1, 1].item()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[0, 0, 1, 1] += sign * step
        values.append(penalty().item())
        with torch.no_grad():
            weight[0, 0, 1, 1] -= sign * step
    assert found == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4)


# --- spectral normalisation ----------------------------------------------------------------------


def test_the_norm_is_found() -> None:
    torch.manual_seed(0)
    layer = spectrally_normalize(nn.Linear(7, 5)).train()
    for _ in range(100):
        advance_spectral_norms(layer)
    assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("layer", [nn.Linear(7, 5), nn.Conv2d(3, 5, 3), nn.Conv2d(4, 6, 1)])
def test_an_advance_is_one_power_iteration(layer: nn.Module) -> None:
    """u = Wv / |Wv|, v = Wᵀu / |Wᵀu|, σ = uᵀWv, of the weight as (outputs, all else)."""
    torch.manual_seed(0)
    layer = spectrally_normalize(copy.deepcopy(layer)).train()
    parametrizations: Any = layer.parametrizations
    norm_, original = parametrizations.weight[0], parametrizations.weight.original
    with torch.no_grad():  # far from converged, so that one iteration and two are not alike
        original.normal_()
        norm_._u.copy_(F.normalize(torch.randn_like(norm_._u), dim=0))
        norm_._v.copy_(F.normalize(torch.randn_like(norm_._v), dim=0))
    matrix = original.detach().flatten(1)
    u = matrix @ norm_._v
    u /= u.norm()
    v = matrix.T @ u
    v /= v.norm()
    advance_spectral_norms(layer)
    torch.testing.assert_close(norm_._u, u)
    torch.testing.assert_close(norm_._v, v)
    torch.testing.assert_close(w(layer)[0], original / (u @ matrix @ v))


def test_the_norm_of_a_convolution_is_found() -> None:
    torch.manual_seed(0)
    layer = spectrally_normalize(nn.Conv2d(4, 6, 3)).train()
    for _ in range(200):
        advance_spectral_norms(layer)
    assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-3)


NETS = (sagan.SaganDecoder, sagan.SaganDiscriminator, hit.HitDiscriminator)


@pytest.mark.parametrize(("net", "count"), [*zip(NETS, (8, 10, 10), strict=True)])
def test_every_weight_starts_as_xavier_s_and_sagan_s_are_normalised(
    net: type[nn.Module], count: int
) -> None:
    """U(-a, a), a² = 6 / (inputs + outputs), each counted with the size of the kernel."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"img_size": 16, "widths": (32, 24, 16)}
    options |= {"initial": "xavier"} if net is hit.HitDiscriminator else {}
    layers = [m for m in net(**options).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers:
        if net is hit.HitDiscriminator:
            original = layer.weight.detach()
        else:
            parametrization: Any = layer.parametrizations  # there are none without the norm
            original = parametrization.weight.original
        fans = (original.shape[0] + original.shape[1]) * original[0, 0].numel()
        bound = (6 / fans) ** 0.5
        assert original.abs().max().item() <= bound
        # The standard error of a uniform's deviation is 1 / √(5n) of it; four of them.
        spread = original.std(correction=0).item()
        assert spread == pytest.approx(bound / 3**0.5, rel=4 / (5 * original.numel()) ** 0.5)
        assert layer.bias is None or not layer.bias.any()
    assert len(layers) == count


def test_u_and_v_come_back_exactly() -> None:
    torch.manual_seed(0)
    net = spectrally_normalize(nn.Linear(7, 5)).train()
    advance_spectral_norms(net)
    other = spectrally_normalize(nn.Linear(7, 5))
    other.load_state_dict(net.state_dict())
    mine, theirs = dict(net.named_buffers()), dict(other.named_buffers())
    assert sorted(name.rsplit(".", 1)[1] for name in mine) == ["_u", "_v"]
    assert all(torch.equal(buffer, theirs[name]) for name, buffer in mine.items())
    for each in (net, other):  # and so does what follows from them
        each.train()
        advance_spectral_norms(each)
    assert torch.equal(net.weight, other.weight)


def test_one_iteration_a_step() -> None:
    """Two passes of a step see one function; the next step sees another."""
    torch.manual_seed(0)
    net = sagan.SaganDiscriminator(16, (4, 6, 8))
    images = torch.randn(2, 3, 16, 16)
    net.train()
    advance_spectral_norms(net)
    before = copy.deepcopy(net.state_dict())
    first, second = net(images), net(images)
    assert torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(),
                                                 strict=True))  # fmt: skip
    net.train()
    advance_spectral_norms(net)
    assert not torch.equal(net(images), first)


def test_micro_batches_add_up() -> None:
    """The gradient of a batch is the sum of those of its halves."""
    torch.manual_seed(0)
    net = sagan.SaganDiscriminator(16, (4, 6, 8)).train()
    advance_spectral_norms(net)
    images = torch.randn(4, 3, 16, 16)
    net(images).sum().backward()
    whole = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    for half in images.split(2):
        net(half).sum().backward()
    for a, b in zip(whole, net.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a, rtol=1e-4, atol=1e-5)


def test_the_state_comes_back() -> None:
    torch.manual_seed(0)
    net = sagan.SaganDecoder(**SMALL_DECODER).train()  # type: ignore[arg-type]
    advance_spectral_norms(net)
    other = sagan.SaganDecoder(**SMALL_DECODER)  # type: ignore[arg-type]
    other.load_state_dict(net.state_dict())
    z = torch.randn(2, 6)
    assert torch.equal(net.eval()(z), other.eval()(z))


def test_a_square_on_the_range_and_every_parameter_is_trained() -> None:
    net = sagan.SaganDecoder(**SMALL_DECODER).train()  # type: ignore[arg-type]
    images = net(torch.randn(4, 6))
    assert images.abs().max() <= 1
    images.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters()
               if p.ndim > 1)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sagan_decoder_64", {"img_size": 60}, "60 px"),
        ("sagan_discriminator_64", {"img_size": 8}, "8 px"),
        ("sagan_decoder_64", {"img_size": 0}, "0 px"),
        ("hit_discriminator_64", {"img_size": 32}, "64 px to 4, not from 32"),
        ("sagan_decoder_64", {"pretrained": True}, "no weights"),
    ],
)
def test_what_does_not_fit_is_named(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=words), torch.device("meta"):
        timm.create_model(name, **options)


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (sagan.SaganDecoder(**SMALL_DECODER), (2, 5)),  # type: ignore[arg-type]
        (sagan.SaganDiscriminator(16, (4, 6, 8)), (2, 3, 32, 32)),
        (hit.HitDiscriminator(16, (4, 6, 8)), (2, 3, 8, 8)),
    ],
)
def test_another_input_is_named(net: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"takes .*, not {re.escape(str(shape))}"):
        net(torch.zeros(shape))
