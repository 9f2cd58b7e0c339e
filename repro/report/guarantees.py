"""What the project guarantees, and the tests that hold it to that."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Guarantee:
    """A promise about every number. `tests`: files relative to the checkout."""

    promise: str
    how: str
    tests: tuple[str, ...]


GUARANTEES = (
    Guarantee(
        "Every table and figure follows from the runs.",
        "`repro verify` renders each again and compares byte for byte; one digit changed in any "
        "kind of file is found and named.",
        ("tests/test_verify.py",),
    ),
    Guarantee(
        "Every number leads to its runs.",
        "The evidence of a cell is compared with the published CSV.",
        ("tests/test_trace.py", "tests/report/test_report.py"),
    ),
    Guarantee(
        "Accuracies are counted, not copied.",
        "They are recounted from the stored predictions of every test image.",
        ("tests/test_committed_results.py",),
    ),
    Guarantee(
        "A result is complete or it is refused.",
        "Truncated, edited and foreign files are found wherever they are read.",
        ("tests/test_complete.py", "tests/test_damaged.py", "tests/test_records.py"),
    ),
    Guarantee(
        "A run is named by what it computes.",
        "A golden list of ids shows any change; equal specifications are one run.",
        ("tests/test_spec.py",),
    ),
    Guarantee(
        "An interrupted run is the uninterrupted one.",
        "Trainings are stopped, resumed and compared byte for byte on a CPU.",
        ("tests/tasks/test_classification.py", "tests/train/test_checkpoint.py"),
    ),
    Guarantee(
        "Every run has exactly one result.",
        "Nodes, jobs and controllers are killed on a real SLURM.",
        ("tests/launch/test_chaos.py", "tests/launch/test_lease.py"),
    ),
    Guarantee(
        "Randomness depends on seed, epoch and image alone.",
        "The same batches come from any number of workers and ranks.",
        ("tests/data/test_randomness.py", "tests/data/test_loader.py"),
    ),
    Guarantee(
        "Verdicts err at a stated rate.",
        "The statistics are compared with SciPy, with closed forms, and on papers whose truth is "
        "known.",
        ("tests/test_verdict.py",),
    ),
    Guarantee(
        "Results of older code are marked.",
        "A digest of the source that a task depends on is stored with each result.",
        ("tests/test_outdated.py",),
    ),
    Guarantee(
        "Results from other sites are checked.",
        "Digests, specifications and duplicate seeds; import is all or nothing.",
        ("tests/test_bundle.py",),
    ),
    Guarantee(
        "This page runs nothing from elsewhere.",
        "All text from results is escaped, and a Content Security Policy admits only this page's "
        "own style and script.",
        ("tests/report/test_report.py", "tests/report/test_browser.py"),
    ),
)
