"""The results folder: reading and writing the runs in it, and data frames of their metrics.

results/<run id>/
  spec.json          the whole run; written first
  metrics.jsonl      a line per epoch or evaluation; determined by the run alone
  predictions.npz    the label and the top-5 classes of every test sample
  samples.png, interpolation.png  images of a generator; samples/: its images during training
  maps.npz, trees.npz  some images with a classifier's attribution maps or trees
  weights.safetensors  the trained model; stays on this machine, not in git
  result.json        metrics, provenance, and the SHA-256 of every other file; written last, by
                     rename, so that a run with this file is finished
  origin.json        of an imported run: the site that computed it

Hidden names, such as those of imports under way, are not runs. No other package knows these files.

`outcome` checks a folder for every reader: it is 'damaged' if its files do not fit each other or if
a file is missing that this kind of run has.
"""

from repro.core.run import METRICS, PREDICTIONS
from repro.results.files import (
    ORIGIN,
    RESULT,
    SNAPSHOTS,
    SPEC,
    WAIVERS,
    WEIGHTS,
    Digest,
    MetricName,
    Reference,
    Result,
    ResultsError,
    Site,
    folder,
    metrics_so_far,
    origin,
    read_metrics,
    require_writable,
    run_folders,
    run_ids,
    stored_run,
    unknown_entries,
    unknown_files,
    write,
    write_metrics,
)
from repro.results.frames import frame, measurement_rows, measurements
from repro.results.outcome import (
    Outcome,
    State,
    arrays,
    begin,
    evidence_digest,
    finish,
    outcome,
    weights,
)

__all__ = [
    "METRICS",
    "ORIGIN",
    "PREDICTIONS",
    "RESULT",
    "SNAPSHOTS",
    "SPEC",
    "WAIVERS",
    "WEIGHTS",
    "Digest",
    "MetricName",
    "Outcome",
    "Reference",
    "Result",
    "ResultsError",
    "Site",
    "State",
    "arrays",
    "begin",
    "evidence_digest",
    "finish",
    "folder",
    "frame",
    "measurement_rows",
    "measurements",
    "metrics_so_far",
    "origin",
    "outcome",
    "read_metrics",
    "require_writable",
    "run_folders",
    "run_ids",
    "stored_run",
    "unknown_entries",
    "unknown_files",
    "weights",
    "write",
    "write_metrics",
]
