"""The parts of a run: a model, a training recipe, the preprocessing of test images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from repro.core.identity import Value

Split = Literal["train", "test", "fit", "validation"]
Resize = Literal["bilinear", "bicubic", "aliased"]  # aliased: bilinear without antialias, as TF's
CropRule = Literal[
    "torchvision", "tensorflow"
]  # whose way of cutting out: `repro.data.augment.crops`


@dataclass(frozen=True)
class Model:
    """An architecture: its name in timm, and its options, sorted by name."""

    name: str
    options: tuple[tuple[str, Value], ...] = ()

    @classmethod
    def of(cls, name: str, **options: Value) -> Self:
        return cls(name, tuple(sorted(options.items())))

    def updated(self, **options: Value) -> Model:
        """This model with some options added or replaced."""
        return Model.of(self.name, **{**dict(self.options), **options})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The training hyper-parameters of a run.

    A default means 'not used'. `batch_size` is global and `lr` the absolute peak, independent of
    the number of GPUs. The schedule is a linear warm-up from `warmup_lr`, then a cosine to exactly
    `final_lr`, by steps (official `libml/utils.py`).
    """

    epochs: int
    batch_size: int  # images per optimiser step, over all devices; even, because mixing pairs them
    lr: float  # peak
    optimizer: Literal["adamw", "sgd"] = "adamw"  # adamw: betas 0.9, 0.999; sgd: Nesterov 0.9
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    decay_biases: bool = True  # False: tensors with fewer than two dimensions are not decayed
    no_decay: tuple[str, ...] = ()  # parameters whose name contains one of these are not decayed
    drop_path: float = 0.0  # stochastic depth of the last layer, growing linearly from 0
    image_size: int = 0  # px, side of a training crop; 0: images are as large as they are stored
    crop_area: tuple[float, ...] = ()  # least and largest share of the image in a random crop
    crop_resize: Resize = "bilinear"
    crop_rule: CropRule = "torchvision"  # how a random crop is drawn
    crop_padding: int = 0  # pixels per side
    flip: bool = False
    repeats: int = 1  # repeated augmentation: views per image; an epoch has that many fewer images
    augmentation: Literal["authors", "timm"] = "authors"  # implementation of the operations
    color_jitter: float = 0.0  # strength, after RandAugment, with SimCLR v2's greyscale and flip
    randaugment_layers: int = 0
    randaugment_magnitude: float = 9.0  # of 10
    randaugment_std: float = 0.5
    randaugment_prob: float = 0.5  # of each layer
    erase_prob: float = 0.0
    mixup_alpha: float = 0.0
    cutmix: bool = False
    mix_prob: float = 1.0  # probability that a pair of images is mixed
    label_smoothing: float = 0.0  # of mixed images only, as in the official code
    smooth_unmixed: bool = False  # smooth labels of unmixed images too, as timm does
    warmup_lr: float = 0.0  # start of the warm-up
    final_lr: float = 0.0  # end of the cosine
    clip_norm: float = 0.0  # of the whole gradient; 0: not clipped
    zero_head: bool = False  # initialize the classifier with zeros, also after pre-training
    evaluate_every_epochs: int = 0  # 0: at the end only


@dataclass(frozen=True, kw_only=True)
class AdversarialRecipe:
    """The hyper-parameters of a generator and a discriminator that are trained together.

    In every step each takes one gradient at the same weights. Adam with constant rates for both.
    """

    steps: int
    batch_size: int  # real images, and generated ones, per step, over all devices
    lr: float  # the generator's
    discriminator_lr: float
    betas: tuple[float, float] = (0.0, 0.99)
    loss: Literal["logistic", "hinge"] = "logistic"  # logistic: the non-saturating one
    r1_weight: float = 0.0  # of the squared norm of the discriminator's gradient at real images
    flip: bool = False
    ema_decay: float = 0.0  # of the average of the generator's weights, which is evaluated
    ema_start: int = 0  # the step at which averaging starts; before, the weights are copied
    evaluate_every_steps: int = 0  # 0: at the end only


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How an image of any size becomes a test input: resized, then its centre cropped."""

    image_size: int  # px, side of the input
    crop_fraction: float = 0.875  # of the resized shorter side; 0: the whole image, squeezed square
    resize: Resize = "bicubic"
    crop_rule: CropRule = "torchvision"  # how the longer side and the centre are rounded
    normalize: tuple[float, ...] = ()  # mean and std of every channel; (): those of the dataset
