"""A network of torchvision under a name that timm knows; imported where runs are carried out."""

from __future__ import annotations

from timm.models import register_model
from torchvision.models import ShuffleNetV2


@register_model  # type: ignore[untyped-decorator]
def tiny_shufflenet(num_classes: int = 10, width: int = 1, **_: object) -> ShuffleNetV2:
    """ShuffleNet v2 with a block a stage; `width` times 32 channels in the first."""
    widths = [24, 32 * width, 64 * width, 128 * width, 256 * width]
    return ShuffleNetV2([1, 1, 1], widths, num_classes=num_classes)
