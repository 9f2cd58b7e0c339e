"""How many operations the host launches in the passes of a training step, on a pretended GPU."""

from __future__ import annotations

import timm
import torch

import repro.models  # noqa: F401  (registers our architectures with timm)
from repro.models.spectral import advance_spectral_norms
from repro.spec import Generation, Model
from repro.tasks import generation
from repro.train import device as devices
from repro.train import optim
from tests.pretended_gpu import GPU, pretended_gpu

IMAGES = 2  # the number depends little on them


def of_classifier(model: Model, classes: int, side: int) -> int:
    """Those of a forward and a backward pass in bf16 autocast."""
    with torch.device("meta"):
        net = timm.create_model(model.name, num_classes=classes, **dict(model.options))
    with pretended_gpu(values=False) as log:
        net = net.to(GPU).train()
        images = torch.zeros(IMAGES, 3, side, side, device=GPU)
        targets = torch.zeros(IMAGES, classes, device=GPU)
        log.kernels.clear()
        with devices.autocast(GPU):
            logits = net(images)
        optim.soft_cross_entropy(logits, targets).sum().backward()
        return log.kernels.total()


def of_pair(run: Generation) -> int:
    """Those of the passes of a GAN's step."""
    with torch.device("meta"):
        generator, discriminator = (
            timm.create_model(model.name, **dict(model.options))
            for model in (run.generator, run.discriminator)
        )
    side = generation.image_side(generator)
    latents = torch.randn(IMAGES, generation.latent_dim(generator))
    real = torch.zeros(IMAGES, 3, side, side)
    with pretended_gpu(values=False) as log:
        generator, discriminator = generator.to(GPU).train(), discriminator.to(GPU).train()
        latents, real = latents.to(GPU), real.to(GPU)
        log.kernels.clear()
        for net in (generator, discriminator):
            advance_spectral_norms(net)
        with devices.autocast(GPU):
            fake = generator(latents)
        losses = generation.adversarial_losses(discriminator, real, fake, run.recipe, GPU)
        means = {name: loss.sum() for name, loss in losses.items()}
        means["generator_loss"].backward(inputs=list(generator.parameters()), retain_graph=True)
        both = means["discriminator_loss"] + run.recipe.r1_weight * means["r1"]
        both.backward(inputs=list(discriminator.parameters()))
        return log.kernels.total()
