"""How far generated images are from real ones: Fréchet distance, score, KID, precision and recall.

    from repro import fidelity
    extractor = fidelity.inception(data / "inception").to("cuda")
    real = fidelity.reference(extractor, batches_of_real_images, about, cache=data / "statistics")
    fidelity.measure(extractor, batches_of_generated_images, real, seed=0)   # {"fid": ..., ...}

Images are uint8 (B, 3, h, w). The numbers are those of torch-fidelity, by its own functions; but
moments are summed as images come, so that no set of images is too large. Only the Inception of 2015
gives metrics called `fid` and the like: by any other network they are `proxy_frechet` and the like.
"""

from repro.fidelity.features import Extractor, Seen, inception, of_classifier
from repro.fidelity.files import load_statistics, save_statistics
from repro.fidelity.metrics import compare, measure, spread
from repro.fidelity.moments import Moments, Statistics, frechet
from repro.fidelity.reference import Reference, imported, measured, reference, stored
from repro.fidelity.weights import find_inception, prepare_inception

__all__ = [
    "Extractor",
    "Moments",
    "Reference",
    "Seen",
    "Statistics",
    "compare",
    "find_inception",
    "frechet",
    "imported",
    "inception",
    "load_statistics",
    "measure",
    "measured",
    "of_classifier",
    "prepare_inception",
    "reference",
    "save_statistics",
    "spread",
    "stored",
]
