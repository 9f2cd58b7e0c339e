"""The metrics of generated images, by torch-fidelity's own functions wherever it has them."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from repro.fidelity.features import Extractor, Features
from repro.fidelity.moments import Moments, frechet
from repro.fidelity.reference import RESERVOIR_SIZE, Reference, Reservoir

SPLITS = 10  # of the Inception score (Salimans et al. 2016)
MIN_SPLIT_IMAGES = 500  # images; a smaller split cannot show a thousand classes
KID_SUBSET = 1000  # images, in each of 100 subsets
_PRC_BATCH = 1000  # rows of the distance matrix in memory, 40 MB

Metrics = dict[str, float]


def measure(
    extractor: Extractor, fakes: Iterable[Tensor], reference: Reference, seed: int
) -> Metrics:
    """Compare generated images, batches of uint8 (B, 3, h, w), with real ones, in one pass.

    With Inception:     `fid`, `inception_score`, `kid`, `precision`, `recall`;
    with a classifier:  `proxy_frechet`, `proxy_score`, `proxy_kid`, `proxy_precision`,
                        `proxy_recall`;

    also the standard deviations of score and KID over splits and subsets, and the sample sizes.
    Score: higher is better; 10 splits, or a single one below 5,000 images. KID, precision and
    recall compare up to 10,000 images of each set, and are omitted if the reference has no
    features; precision and recall are those of Kynkäänniemi et al. 2019 with 3 neighbours. `seed`,
    below 2^32, selects splits and subsets. Raises ValueError for a reference by another extractor,
    DataError for fewer images than the Fréchet distance needs.
    """
    return compare(extractor, map(extractor, fakes), reference, seed)


def compare(
    extractor: Extractor, fakes: Iterable[Features], reference: Reference, seed: int
) -> Metrics:
    """Like `measure`, from the extractor's outputs for the generated images."""
    by = reference.about["extractor"], reference.about["digest"]
    if by != (extractor.name, extractor.digest):
        raise ValueError(f"the reference is by {by[0]}, not by {extractor.name}")
    # The default lock of tqdm, which torch-fidelity uses without output, would leak a semaphore.
    tqdm.set_lock(threading.RLock())
    moments, reservoir = Moments(extractor.dim, extractor.device), Reservoir(RESERVOIR_SIZE, seed)
    logits = []
    for features, scores in fakes:
        moments.add(features)
        reservoir.add(features)
        logits.append(scores.cpu())
    name = _names(extractor.prefix)
    return {
        name["frechet"]: frechet(moments.statistics(), reference.statistics),
        **_score(torch.cat(logits), name["score"], seed),
        **_feature_metrics(reservoir.rows(), reference.features, name, seed),
        "fakes": moments.count,
    }


def _names(prefix: str) -> dict[str, str]:
    """The names of the metrics; the usual ones are Inception's."""
    own = {key: prefix + key for key in ("frechet", "score", "kid", "precision", "recall")}
    return own if prefix else own | {"frechet": "fid", "score": "inception_score"}


def _score(logits: Tensor, name: str, seed: int) -> Metrics:
    """exp of the mean KL divergence of p(y | x) from p(y), over splits of the shuffled images."""
    from torch_fidelity import metric_isc as isc

    splits = SPLITS if len(logits) >= SPLITS * MIN_SPLIT_IMAGES else 1
    score = isc.isc_features_to_metric(logits, splits, shuffle=True, rng_seed=seed)
    return {
        name: score[isc.KEY_METRIC_ISC_MEAN],
        f"{name}_std": score[isc.KEY_METRIC_ISC_STD],
        f"{name}_splits": splits,
    }


def _feature_metrics(fake: Tensor, real: Tensor | None, name: dict[str, str], seed: int) -> Metrics:
    """The metrics that compare single images. KID may be slightly negative."""
    if real is None:
        return {}
    from torch_fidelity import metric_kid as kid
    from torch_fidelity import metric_prc as prc

    subset = min(KID_SUBSET, len(fake), len(real))
    options: dict[str, Any] = {"rng_seed": seed, "verbose": False}
    distance = kid.kid_features_to_metric(fake, real, kid_subset_size=subset, **options)
    # save_cpu_ram: by rows, instead of four matrices of 400 MB at once.
    options |= {"save_cpu_ram": True, "prc_batch_size": _PRC_BATCH}
    overlap = prc.prc_features_to_metric(fake, real, **options)  # generated ones come first
    return {
        name["kid"]: distance[kid.KEY_METRIC_KID_MEAN],
        f"{name['kid']}_std": distance[kid.KEY_METRIC_KID_STD],
        f"{name['kid']}_subset": subset,
        name["precision"]: overlap[prc.KEY_METRIC_PRECISION],
        name["recall"]: overlap[prc.KEY_METRIC_RECALL],
    }


def spread(images: Tensor) -> float:
    """The diversity of images (N, 3, h, w) uint8: their standard deviation, in grey levels.

    Over the images, at each pixel and channel, averaged over those. A collapsed generator is near
    0, real images are at about 50. ValueError for fewer than 2.
    """
    if len(images) < 2:
        raise ValueError(f"the standard deviation needs 2 images, not {len(images)}")
    parts = images.flatten(1).split(4096, dim=1)  # float64 takes memory
    return torch.cat([part.double().std(0, correction=0) for part in parts]).mean().item()
