"""How far generated images are from real ones: Fréchet distance, score, KID, precision and recall.

    from repro import fidelity
    extractor = fidelity.inception(data / "inception").to("cuda")
    real = fidelity.reference(extractor, batches_of_real_images, about, cache=data / "statistics")
    fidelity.measure(extractor, batches_of_generated_images, real, seed=0)   # {"fid": ..., ...}

Images are uint8 (B, 3, h, w). The metrics are computed by torch-fidelity's functions, but moments
are accumulated batch by batch, so that any number of images fits in memory. Names such as `fid`
belong to the Inception of 2015; with any other network they are `proxy_frechet` and the like.
"""

from repro.fidelity.features import Extractor, Features, from_classifier, inception
from repro.fidelity.files import load_statistics, save_statistics
from repro.fidelity.metrics import compare, measure, spread
from repro.fidelity.moments import Moments, Statistics, frechet
from repro.fidelity.reference import (
    Reference,
    import_reference,
    load_cached,
    measure_reference,
    reference,
)
from repro.fidelity.weights import find_inception, prepare_inception

__all__ = [
    "Extractor",
    "Features",
    "Moments",
    "Reference",
    "Statistics",
    "compare",
    "find_inception",
    "frechet",
    "from_classifier",
    "import_reference",
    "inception",
    "load_cached",
    "load_statistics",
    "measure",
    "measure_reference",
    "prepare_inception",
    "reference",
    "save_statistics",
    "spread",
]
