"""The kinds of run: one file each. Importing this package makes their specs readable."""

from repro.kinds.classification import TIMM, Classification
from repro.kinds.explanation import Explanation
from repro.kinds.generation import Generation
from repro.kinds.localization import Attribution, Baseline, Ceiling, Localization
from repro.kinds.profiling import Profiling
from repro.kinds.traversal import Sign, TopTap, Traversal

__all__ = [
    "TIMM",
    "Attribution",
    "Baseline",
    "Ceiling",
    "Classification",
    "Explanation",
    "Generation",
    "Localization",
    "Profiling",
    "Sign",
    "TopTap",
    "Traversal",
]
