"""The paper's architectures: NesT, baselines that timm lacks, generators and discriminators.

Importing this package registers every entry point with timm, so that `timm.create_model(name, ...)`
builds our models too.
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
