"""The paper's architectures: NesT, the baselines of Table 1 that timm lacks, the generators.

Importing this package registers every entry point, so that `timm.create_model(name, ...)` builds
ours and timm's alike. Nothing here knows of the rest of the project.
"""

from repro.models import cct, nest, pvt, pyramidnet, transgan, transposed_nest, wide_resnet

__all__ = ["cct", "nest", "pvt", "pyramidnet", "transgan", "transposed_nest", "wide_resnet"]
