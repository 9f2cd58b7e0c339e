"""How the generators are trained: one recipe and one discriminator for all of them.

The paper says 'based on (Goodfellow et al. 2014; Zhang et al. 2019)' and refers to its appendix,
which is not in our copy; its code was not released. HiT-GAN is by authors of the paper, from the
same months, for the same data without labels: its recipe is the default, SAGAN's, which the paper
cites, the alternative. Both as their code has them: google-research/hit-gan at 06d310c,
brain-research/self-attention-gan at ad9612e.
"""

from __future__ import annotations

from repro.experiments.recipes import adversarial
from repro.spec import Decision, Model

_HIT = "our choice: HiT-GAN's, for ImageNet at 128 px; alternative: SAGAN's, see figure5_left_sagan"
_SAGAN = "our choice: SAGAN's code; alternative: HiT-GAN's, see figure5_left"
_POINTS = "our choice: ten points of a curve; alternative: as many as there is time for"

HIT = adversarial(
    steps=(1_000_000, _HIT),
    batch_size=(256, _HIT),
    lr=(1e-4, _HIT),
    discriminator_lr=(1e-4, _HIT),
    betas=((0.0, 0.99), _HIT),
    loss=("logistic", _HIT),
    r1_weight=(10.0, f"{_HIT}; every step, without the 1/2 that some write"),
    flip=(True, _HIT),
    ema_decay=(0.999, _HIT),
    ema_start=(10, _HIT),
    evaluate_every_steps=(100_000, _POINTS),
)
SAGAN = adversarial(
    steps=(1_000_000, "our choice: as under HiT-GAN's; alternative: 2 M, where SAGAN's code stops"),
    batch_size=(256, _SAGAN),
    lr=(1e-4, _SAGAN),
    discriminator_lr=(4e-4, _SAGAN),
    betas=((0.0, 0.999), f"{_SAGAN}; its paper: 0.9"),
    loss=("hinge", _SAGAN),
    flip=(True, "our choice: as under HiT-GAN's recipe; alternative: none"),
    ema_decay=(0.999, "our choice: as under HiT-GAN's; alternative: none, as SAGAN's default"),
    ema_start=(10, "our choice: as under HiT-GAN's"),
    evaluate_every_steps=(100_000, _POINTS),
)

HIT_DISCRIMINATOR = Model.of("hit_discriminator_64", initial="xavier")
SAGAN_DISCRIMINATOR = Model("sagan_discriminator_64")

GENERATORS = {
    "Convnet": Model("sagan_decoder_64"),
    "TransGAN": Model("transgan_64"),
    "Transposed NesT": Model("transposed_nest_64"),
}

DECISIONS = (
    Decision("recipe and discriminator", "HiT-GAN's, for all three generators",
             "SAGAN's, which figure5_left_sagan has; each generator's own",
             "the paper compares decoders; HiT-GAN's is known to train transformers"),
    Decision("Transposed NesT's widths, depths and heads",
             "1024, 256, 256, 64; four layers each; 32, 8, 8, 2 heads: 74,417,987 parameters",
             "transposed_nest_64_b (74,402,307) and _c (74,514,051)",
             "Table A6 is not in our copy; the paper prints 74.4 M, and shuffles pixels"),
    Decision("length of the latent", "256", "128, 512",
             "with it, the TransGAN that was public then has the paper's 82.6 M, with no other"),
    Decision("TransGAN", "its generator for 64 px of May 2021, global attention everywhere, "
             "without the mask of its first 20 epochs", "its later versions, with windows at 64 px",
             "the only one for 64 px that was public when the paper was written"),
    Decision("convnet", "SAGAN's generator without attention, 4 up-sampling blocks, widths 1584, "
             "1584, 792, 396, 198: 78,090,015 parameters", "other widths",
             "SAGAN's own has 32 M; the paper prints 77.8 M"),
    Decision("first weights of HiT-GAN's discriminator", "Xavier's; at proxy scale He's",
             "He's", "its code leaves Keras' own, which are Xavier's"),
    Decision("order of the two updates", "both at once, from one forward pass", "in turn, as SAGAN",
             "HiT-GAN's code"),
    Decision("images of 64 px", "centre square, then Pillow's bicubic with antialiasing",
             "HiT-GAN's crop of 0.875; box filters, as ADM; Lanczos, as EDM",
             "the paper says 'resized'; FID between these is not comparable"),
    Decision("real images for FID", "the whole train split, not mirrored; 50,000 generated ones",
             "the 50,000 of the validation split, as HiT-GAN", "the paper does not say"),
)  # fmt: skip
