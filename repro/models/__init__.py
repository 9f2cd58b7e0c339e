"""The paper's architectures: NesT, baselines that timm lacks, generators and their judges.

Importing this package registers every entry point, so that `timm.create_model(name, ...)` builds
ours and timm's alike. Nothing here knows of the rest of the project.
"""

from repro.models import (
    cct,
    hit,
    nest,
    pvt,
    pyramidnet,
    sagan,
    transgan,
    transposed_nest,
    wide_resnet,
)

__all__ = [
    "cct",
    "hit",
    "nest",
    "pvt",
    "pyramidnet",
    "sagan",
    "transgan",
    "transposed_nest",
    "wide_resnet",
]
