"""Options of execution, passed from the command line to the task.

They do not change what a run computes, so they are not part of its id. This module imports neither
torch nor the launcher, so that both sides can import it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Decode = Literal["cpu", "nvjpeg"]
Speed = Literal["plain", "fast", "compiled"]

TIMEOUT_SECONDS = 120.0  # without a heartbeat, after which a run counts as lost


@dataclass(frozen=True)
class ExecutionOptions:
    """The choices of the user and the site, and the identity of this attempt at a run."""

    data: Path = Path("data")  # the folder of the datasets
    checkpoint_seconds: float = 60.0  # a kill loses at most this much work, and what a write takes
    micro_batch: int | None = None  # images on one device at once; None: as many as fit
    weights: Path | None = None  # a folder of released weights; None: the hub's cache, or the hub
    decode: Decode = "cpu"  # of photographs; nvJPEG's pixels differ by some grey levels
    speed: Speed = "fast"  # see repro.train.speed
    per_gpu: int = 1  # runs that share a GPU and its memory
    silence_seconds: float = TIMEOUT_SECONDS
    budget_seconds: float | None = None  # of one run, over all attempts of a submission
    attempt: str = ""  # identifies this attempt to all of its ranks; '' if it has no name
    job: str = ""  # SLURM's job ID; '' outside SLURM
    submission: str = ""
    warned_at: float = float("inf")  # monotonic clock: from here on a signal means the time limit

    def absolute(self) -> ExecutionOptions:
        """These options with absolute paths, for a process in another working directory."""
        weights = self.weights.absolute() if self.weights else None
        return replace(self, data=self.data.absolute(), weights=weights)

    @property
    def about(self) -> dict[str, str]:
        """The attempt's identity for the lease."""
        identity = {"attempt": self.attempt, "job": self.job, "submission": self.submission}
        return {name: value for name, value in identity.items() if value}
