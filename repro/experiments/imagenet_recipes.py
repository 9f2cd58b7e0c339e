"""Training recipes on ImageNet-1K and 22K, every value with its source; see `recipes`.

The authors released the recipe of NesT on ImageNet-1K. The compared methods are trained by the
recipes of their own papers, which is our choice: Table 2 cites their numbers from there.
"""

from __future__ import annotations

from repro.experiments.recipes import Sourced, changed, sourced
from repro.spec import Decision, Evaluation

# --- NesT ----------------------------------------------------------------------------------------


def official_crop(source: str) -> dict[str, tuple[object, str]]:
    """Google's random crop: sample_distorted_bounding_box, then resize without antialias."""
    return {
        "crop_area": ((0.05, 1.0), source),
        "crop_rule": ("tensorflow", source),
        "crop_resize": ("aliased", source),
    }


_NEST = "official configs/imagenet_nest.py"
_WARMUP_NEST = _NEST
_WARMUP_SHORT = (
    "our choice: 20 as in the config, since only the number of epochs is stated to change; "
    "alternatives: a fifteenth of the epochs, as for 300, or 5"
)
_NEST_DROP_PATH = {"T": 0.2, "S": 0.3, "B": 0.5}


def nest(size: str, epochs: int = 300) -> Sourced:
    """NesT on ImageNet-1K; `size` is T, S or B."""
    return sourced(
        epochs=(epochs, "paper, Experiments: 'commonly used 300 epoch training'" if epochs == 300
                else "paper, Figure 6: 'training with {30, 60, 100, 300} epochs'"),
        batch_size=(1024, "our choice: official README ('total batch 1024'); alternatives 512 (the "
                    "config of NesT-T for 8 GPUs), 2048 (what the released NesT-B's checkpoint "
                    "number fits)"),
        lr=(1e-3, f"{_NEST}: 2.5e-4 for 256 images (official train.py)"),
        warmup_epochs=(20, _WARMUP_NEST if epochs == 300 else _WARMUP_SHORT),
        weight_decay=(0.05, _NEST),
        no_decay=(("pos_embed",), f"{_NEST}: optim_wd_ignore=['pos_embedding']"),
        drop_path=(_NEST_DROP_PATH[size], "official models/nest_net.py"),
        image_size=(224, "paper, Experiments: 'The input size is 224 × 224'"),
        **official_crop("official libml/preprocess.py: tf.image.sample_distorted_bounding_box, "
                        "then tf.image.resize, bilinear without antialias"),
        flip=(True, "official libml/preprocess.py"),
        randaugment_layers=(2, _NEST),
        randaugment_magnitude=(9.0, _NEST),
        randaugment_std=(0.5, _NEST),
        randaugment_prob=(0.5, _NEST),
        color_jitter=(0.3, f"{_NEST}: colorjitter_strength"),
        erase_prob=(0.25, _NEST),
        mixup_alpha=(0.8, _NEST),
        cutmix=(True, "official augment/augment_utils.py (alpha 1.0)"),
        mix_prob=(1.0, _NEST),
        label_smoothing=(0.1, _NEST),
        evaluate_every_epochs=(10, f"{_NEST}: eval_per_epochs"),
    )  # fmt: skip


# official libml/preprocess.py: 256, 224
NEST_TEST = Evaluation(image_size=224, resize="aliased", crop_rule="tensorflow")

CROPS = (
    Decision("random crops on ImageNet", "each method's own: TensorFlow's "
             "sample_distorted_bounding_box for NesT, ViT and ResNet-50, on average 0.34 of a "
             "500×375 image; torchvision's RandomResizedCrop for DeiT, Swin and RegNetY, 0.43",
             "one rule for all", "official libml/preprocess.py, google-research/vision_transformer "
             "input_pipeline.py; timm.data.create_transform, which the others call"),
    Decision("grey levels after resizing", "rounded to integers, in training and tests",
             "truncated in training and left fractional in tests, as in the official code",
             "our choice: images reach the device as bytes"),
)  # fmt: skip

# --- the compared methods ------------------------------------------------------------------------

_DEIT = "our choice: as in the method's own code, facebookresearch/deit main.py"


def deit(epochs: int = 300) -> Sourced:
    """DeiT without distillation."""
    return sourced(
        epochs=(epochs, _DEIT if epochs == 300
                else "paper, Figure 6: 'training with {30, 60, 100, 300} epochs'"),
        batch_size=(1024, f"{_DEIT} and README: 64 on each of 16 GPUs"),
        lr=(1e-3, f"{_DEIT}: 5e-4 for 512 images"),
        warmup_lr=(1e-6, _DEIT),
        final_lr=(1e-5, _DEIT),
        warmup_epochs=(5, _DEIT),
        weight_decay=(0.05, _DEIT),
        decay_biases=(False, f"{_DEIT}: timm.optim.create_optimizer"),
        no_decay=(("pos_embed", "cls_token"), f"{_DEIT}: no_weight_decay() of the model"),
        drop_path=(0.1, _DEIT),
        image_size=(224, "paper, Table 2: 'others use 224'"),
        crop_area=((0.08, 1.0), f"{_DEIT}: timm.data.create_transform"),
        crop_resize=("bicubic", _DEIT),
        flip=(True, f"{_DEIT}: timm.data.create_transform"),
        repeats=(3, f"{_DEIT}: repeated augmentation (samplers.py); alternative: none"),
        augmentation=("timm", f"{_DEIT}: rand-m9-mstd0.5-inc1, Mixup in 'batch' mode"),
        randaugment_layers=(2, _DEIT),
        randaugment_magnitude=(9.0, _DEIT),
        randaugment_std=(0.5, _DEIT),
        randaugment_prob=(0.5, f"{_DEIT}: timm's default"),
        erase_prob=(0.25, _DEIT),
        mixup_alpha=(0.8, _DEIT),
        cutmix=(True, f"{_DEIT}: alpha 1.0"),
        mix_prob=(1.0, _DEIT),
        label_smoothing=(0.1, _DEIT),
        smooth_unmixed=(True, f"{_DEIT}: LabelSmoothingCrossEntropy where nothing is mixed"),
        evaluate_every_epochs=(10, "our choice: as for NesT; it changes no result"),
    )  # fmt: skip


DEIT_TEST = Evaluation(image_size=224)  # facebookresearch/deit datasets.py: 256, 224, bicubic

_REGNET = (
    "our choice: DeiT's, since the paper's numbers are those of DeiT's authors 'with the "
    "same data and same data-augmentation as DeiT' (Touvron et al. 2021a)"
)


def regnety() -> Sourced:
    """RegNetY with the recipe of DeiT's authors."""
    like = changed(deit(), no_decay=((), _REGNET))  # it has no position embedding
    return Sourced(like.recipe, dict.fromkeys(like.sources, _REGNET))


_SWIN = "our choice: as in the method's own code, microsoft/Swin-Transformer config.py"
_SWIN_DROP_PATH = {"T": 0.2, "S": 0.3, "B": 0.5}


def swin(size: str) -> Sourced:
    """Swin on ImageNet-1K; `size` is T, S or B."""
    return changed(
        deit(),
        **dict.fromkeys(("epochs", "mixup_alpha", "cutmix", "mix_prob", "label_smoothing"), _SWIN),
        **dict.fromkeys(("randaugment_layers", "randaugment_magnitude", "randaugment_std"), _SWIN),
        **dict.fromkeys(("randaugment_prob", "augmentation", "erase_prob", "flip"), _SWIN),
        **dict.fromkeys(("crop_area", "crop_resize", "weight_decay"), _SWIN),
        decay_biases=_SWIN + " and optimizer.py",
        smooth_unmixed=_SWIN + " and main.py",
        batch_size=(1024, "our choice: as in microsoft/Swin-Transformer get_started.md: 128 on "
                    "each of 8 GPUs"),
        lr=(1e-3, f"{_SWIN}: 5e-4 for 512 images"),
        warmup_lr=(1e-6, f"{_SWIN}: 5e-7 for 512 images"),
        final_lr=(1e-5, f"{_SWIN}: 5e-6 for 512 images"),
        warmup_epochs=(20, _SWIN),
        clip_norm=(5.0, _SWIN),
        no_decay=(("relative_position_bias_table",), "our choice: as in microsoft/Swin-Transformer "
                  "models/swin_transformer.py"),
        drop_path=(_SWIN_DROP_PATH[size], "our choice: as in microsoft/Swin-Transformer "
                   "configs/swin/*_patch4_window7_224.yaml"),
        repeats=(1, _SWIN),
    )  # fmt: skip


SWIN_TEST = Evaluation(
    image_size=224
)  # microsoft/Swin-Transformer data/build.py: 256, 224, bicubic

_CNN = "our choice: official configs/resnet50_imagenet.py, which the authors released with NesT"

RESNET50 = sourced(
    epochs=(90, _CNN),
    batch_size=(256, "our choice: 64 per device (official config), on 4; alternatives 512, 1024"),
    lr=(0.1, _CNN + ": 0.1 for 256 images"),
    optimizer=("sgd", _CNN + " (Nesterov 0.9)"),
    warmup_epochs=(5, _CNN),
    weight_decay=(1e-4, _CNN),
    decay_biases=(False, _CNN + ": L2 on tensors with more than one dimension"),
    image_size=(224, "paper, Table 2: 'others use 224'"),
    **official_crop("our choice: official libml/preprocess.py, as the config's trainer reads it; "
                    "alternative: torchvision's crop from 0.08, bilinear, of the cited row"),
    flip=(True, "our choice: official libml/preprocess.py"),
    evaluate_every_epochs=(10, "our choice: as for NesT; it changes no result"),
)  # fmt: skip
RESNET_TEST = NEST_TEST

_VIT = "our choice: as in Dosovitskiy et al. 2021, Appendix B.1 and Table 3"
_VIT_FT = "our choice: as in Dosovitskiy et al. 2021, Appendix B.1.1 and Table 4"


def vit(data: str) -> Sourced:
    """ViT-B/16 from random initialization at 224; `data` is '1K' or '22K'."""
    on_22k = data == "22K"
    return sourced(
        epochs=(90 if on_22k else 300, "paper, ImageNet-22K: 'The pre-training is 90 epoch'"
                if on_22k else _VIT),
        batch_size=(4096, _VIT),
        lr=(1e-3 if on_22k else 3e-3, _VIT),
        warmup_epochs=(2.9 if on_22k else 32, f"{_VIT}: 10,000 steps"),
        weight_decay=(0.03 if on_22k else 0.3, _VIT),
        clip_norm=(1.0, _VIT),
        image_size=(224, _VIT),
        **official_crop(f"{_VIT} (google-research/vision_transformer input_pipeline.py)"),
        flip=(True, f"{_VIT} (google-research/vision_transformer)"),
    )  # fmt: skip


def vit_finetuning() -> Sourced:
    """ViT-B/16 at 384, after `vit`."""
    return sourced(
        epochs=(8, f"{_VIT_FT}: 20,000 steps of 512 images; alternative 30, as in the paper for "
                "NesT on ImageNet-22K"),
        batch_size=(512, _VIT_FT),
        lr=(0.01, f"{_VIT_FT}: one of 0.003, 0.01, 0.03, 0.06"),
        optimizer=("sgd", f"{_VIT_FT}, with Nesterov momentum as in our other recipes"),
        clip_norm=(1.0, _VIT_FT),
        image_size=(384, "paper, Table 2: 'ViT-B/16 uses an image size 384'"),
        **official_crop(f"{_VIT_FT} (google-research/vision_transformer input_pipeline.py)"),
        flip=(True, f"{_VIT_FT} (google-research/vision_transformer)"),
        zero_head=(True, f"{_VIT_FT} (google-research/vision_transformer checkpoint.py)"),
    )  # fmt: skip


VIT_TEST = Evaluation(image_size=384, crop_fraction=0.0, resize="aliased")

# --- ImageNet-22K: NesT follows Swin's schedule --------------------------------------------------

_EXACT = "paper, ImageNet-22K: 'following the exact training schedules in (Liu et al. 2021)'; "
_PRE = _EXACT + "configs/swin/swin_base_patch4_window7_224_22k.yaml"
_FINE = _EXACT + "configs/swin/swin_base_patch4_window12_384_22kto1k_finetune.yaml"
_CLIP = (
    "our choice: microsoft/Swin-Transformer config.py, as part of its training; alternative for "
    "NesT: none, as in official configs/imagenet_nest.py, since clipping is not a schedule"
)
_HEAD = (
    "our choice: official libml/utils.py, whose only new head is 'zero_all'; alternatives: "
    "random; for Swin the rows of the same classes, as in microsoft/Swin-Transformer utils.py"
)


def pretraining(like: Sourced) -> Sourced:
    """90 epochs of ImageNet-22K by Swin's schedule; the rest as on 1K."""
    return changed(
        like,
        epochs=(90, "paper, ImageNet-22K: 'The pre-training is 90 epoch'"),
        batch_size=(4096, f"{_PRE}: the comment beside BASE_LR"),
        lr=(1e-3, f"{_PRE}: 1.25e-4 for 512 images"),
        warmup_lr=(1e-6, f"{_PRE}: 1.25e-7 for 512 images"),
        final_lr=(1e-5, f"{_PRE}: 1.25e-6 for 512 images"),
        warmup_epochs=(5, _PRE),
        weight_decay=(0.05, _PRE),
        clip_norm=(5.0, _CLIP),
        drop_path=(0.2, _PRE),
        evaluate_every_epochs=(0, "our choice: ImageNet-22K has no test images"),
    )


def finetuning(like: Sourced) -> Sourced:
    """30 epochs of ImageNet-1K at 384 by Swin's schedule; the rest as on 1K."""
    return changed(
        like,
        epochs=(30, "paper, ImageNet-22K: 'finetuning is 30 epoch on 384 × 384 ImageNet images'"),
        batch_size=(1024, f"{_EXACT}microsoft/Swin-Transformer issue 144"),
        lr=(4e-5, f"{_FINE}: 2e-5 for 512 images"),
        warmup_lr=(4e-8, f"{_FINE}: 2e-8 for 512 images"),
        final_lr=(4e-7, f"{_FINE}: 2e-7 for 512 images"),
        warmup_epochs=(5, _FINE),
        weight_decay=(1e-8, _FINE),
        clip_norm=(5.0, _CLIP),
        zero_head=(True, _HEAD),
        drop_path=(0.2, _FINE),
        image_size=(384, "paper, ImageNet-22K: '384 × 384 ImageNet images'"),
        evaluate_every_epochs=(10, "our choice: it changes no result"),
    )


FINE_TEST = Evaluation(image_size=384, crop_fraction=0.0)  # TEST.CROP False in Swin's yaml

# --- Figure 6 bottom: augmentation removed    ----------------------------------------------------


def without(like: Sourced, what: str) -> Sourced:
    """The recipe without 'RandomErasing', 'RandAugment' or 'CutMix&MixUp'.

    Side effects are decisions, listed with the experiment: label smoothing is removed with NesT's
    mixing (which applies it) and kept for DeiT; colour jitter is kept.
    """
    why = f"paper, Figure 6: {what} removed"
    if what == "RandomErasing":
        return changed(like, erase_prob=(0.0, why))
    if what == "RandAugment":
        return changed(like, randaugment_layers=(0, why))
    if what == "CutMix&MixUp":
        return changed(like, mixup_alpha=(0.0, why), cutmix=(False, why))
    raise ValueError(f"no augmentation {what!r}")
