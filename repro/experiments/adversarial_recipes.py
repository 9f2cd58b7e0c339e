"""How the generators are trained: one recipe and one discriminator for all of them.

The paper says 'based on (Goodfellow et al. 2014; Zhang et al. 2019)' and refers to its appendix,
which is not in our copy; its code was not released. The default is the recipe of HiT-GAN, which
authors of the paper published in the same months for the same data without labels. The alternative
is the recipe of SAGAN, which the paper cites. Both follow their code: google-research/hit-gan at
06d310c, brain-research/self-attention-gan at ad9612e.
"""

from __future__ import annotations

from repro.experiments.recipes import adversarial
from repro.spec import Decision, Model

_HIT = "our choice: HiT-GAN's, for ImageNet at 128 px; alternative: SAGAN's, see figure5_left_sagan"
_SAGAN = "our choice: SAGAN's code; alternative: HiT-GAN's, see figure5_left"
_POINTS = "our choice: ten points per curve; alternative: more"

HIT = adversarial(
    steps=(1_000_000, _HIT),
    batch_size=(256, _HIT),
    lr=(1e-4, _HIT),
    discriminator_lr=(1e-4, _HIT),
    betas=((0.0, 0.99), _HIT),
    loss=("logistic", _HIT),
    r1_weight=(10.0, f"{_HIT}; every step, without the factor 1/2 of other implementations"),
    flip=(True, _HIT),
    ema_decay=(0.999, _HIT),
    ema_start=(10, _HIT),
    evaluate_every_steps=(100_000, _POINTS),
)
SAGAN = adversarial(
    steps=(1_000_000, "our choice: as in HiT-GAN's recipe; alternative: 2 M, as in SAGAN's code"),
    batch_size=(256, _SAGAN),
    lr=(1e-4, _SAGAN),
    discriminator_lr=(4e-4, _SAGAN),
    betas=((0.0, 0.999), f"{_SAGAN}; its paper: 0.9"),
    loss=("hinge", _SAGAN),
    flip=(True, "our choice: as in HiT-GAN's recipe; alternative: none"),
    ema_decay=(0.999, "our choice: as in HiT-GAN's recipe; alternative: none, as SAGAN's default"),
    ema_start=(10, "our choice: as in HiT-GAN's recipe"),
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
             "SAGAN's, as in figure5_left_sagan; each generator's own",
             "the paper compares decoders; HiT-GAN's recipe is known to train transformers"),
    Decision("Transposed NesT's widths, depths and heads",
             "1024, 256, 256, 64; four layers each; 32, 8, 8, 2 heads: 74,417,987 parameters",
             "transposed_nest_64_b (74,402,307) and _c (74,514,051)",
             "Table A6 is not in our copy; the paper prints 74.4 M and uses pixel shuffle"),
    Decision("length of the latent", "256", "128, 512",
             "the public TransGAN of that time has the paper's 82.6 M only with 256"),
    Decision("TransGAN", "its generator for 64 px of May 2021, global attention everywhere, "
             "without the mask of its first 20 epochs", "its later versions, with windows at 64 px",
             "the only public one for 64 px when the paper was written"),
    Decision("convnet", "SAGAN's generator without attention, 4 up-sampling blocks, widths 1584, "
             "1584, 792, 396, 198: 78,090,015 parameters", "other widths",
             "SAGAN's generator has 32 M; the paper prints 77.8 M"),
    Decision("initial weights of HiT-GAN's discriminator", "Xavier; at demo scale He",
             "He", "its code uses the default of Keras, which is Xavier"),
    Decision("order of the two updates", "both at once, from one forward pass", "in turn, as in "
             "SAGAN",
             "HiT-GAN's code"),
    Decision("images of 64 px", "square centre crop, then Pillow's bicubic with antialiasing",
             "HiT-GAN's crop of 0.875; box filters, as ADM; Lanczos, as EDM",
             "the paper says 'resized'; FIDs of different methods are not comparable"),
    Decision("real images for FID", "the whole train split, not mirrored; 50,000 generated images",
             "the 50,000 of the validation split, as in HiT-GAN", "the paper does not say"),
)  # fmt: skip
