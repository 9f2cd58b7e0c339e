"""What runs on a node: one run, from whatever state its folder is in, to its result.

`python -m repro.launch.job results/<run id>/spec.json` does it in this process; under torchrun or
srun, in all of its ranks. Whoever starts it, and however often, the run goes on where it was.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import multiprocessing
import os
import platform
import shutil
import signal
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from repro import results, signals
from repro.launch import code, ending, lease, ranks
from repro.launch.ending import Cause, Ending
from repro.spec import Run

_RANKS_WAIT = 60.0  # seconds that other ranks wait for the first, beyond a silence it may wait for


@dataclass(frozen=True)
class How:
    """How runs are carried out: nothing here changes what they compute."""

    data: Path = Path("data")
    checkpoint_seconds: float = 60.0
    micro_batch: int | None = None  # images on one device at once; None: what fits
    weights: Path | None = None  # a folder of released weights; None: the hub's cache, or the hub
    decode: Literal["cpu", "nvjpeg"] = (
        "cpu"  # of photographs; nvJPEG's pixels differ by some levels
    )
    speed: Literal["plain", "fast", "compiled"] = "fast"  # see repro.train.speed
    per_gpu: int = 1  # runs that share a GPU and its memory
    silence_seconds: float = lease.SILENCE_SECONDS
    budget_seconds: float | None = None  # of one run, over all attempts of a submission
    attempt: str = ""  # names this attempt to all of its ranks; '' if nobody named it
    job: str = ""  # SLURM's, '' outside
    submission: str = ""
    warned_at: float = float("inf")  # monotonic clock: from here on a signal means the time limit

    @property
    def about(self) -> dict[str, str]:
        """What others should know of the attempt."""
        named = {"attempt": self.attempt, "job": self.job, "submission": self.submission}
        return {name: value for name, value in named.items() if value}


@dataclass
class _Job:
    """The launcher's side of `repro.tasks.Job`."""

    root: Path
    folder: Path
    how: How
    held: lease.Lease | None  # None on ranks other than the first
    parent: int = field(default_factory=os.getppid)
    asked_to_stop: bool = False
    cancelled: bool = False
    unwritten: Sequence[Mapping[str, Any]] = ()  # metrics for which there was no room
    _since: tuple[int, float] | None = None  # a step of this attempt, and when it was

    @property
    def data(self) -> Path:
        return self.how.data

    @property
    def halvings(self) -> int:
        return self.held.endings.get("out of memory", 0) if self.held else 0

    @property
    def decode(self) -> Literal["cpu", "nvjpeg"]:
        return self.how.decode

    @property
    def speed(self) -> Literal["plain", "fast", "compiled"]:
        return self.how.speed

    @property
    def weights(self) -> Path | None:
        return self.how.weights

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def checkpoint_seconds(self) -> float:
        return self.how.checkpoint_seconds

    @property
    def micro_batch(self) -> int | None:
        return self.how.micro_batch

    def weights_of(self, run: Run) -> Path:
        return results.weights(self.root, run)

    def stopping(self) -> bool:
        lost = self.held is not None and self.held.lost
        return self.asked_to_stop or self.cancelled or lost or self._orphaned()

    def ours(self) -> bool:
        return self.held is not None and self.held.confirm()

    def _orphaned(self) -> bool:
        """Whether whoever started us was killed.

        A local launcher is not our parent: the server is, from which we were forked, and it lives
        as long as one of us.
        """
        launcher = multiprocessing.parent_process()
        alone = launcher is not None and not launcher.is_alive()
        return alone or os.getppid() != self.parent

    def progress(self, step: int, steps: int, line: Mapping[str, Any]) -> None:
        if not self.held:
            return
        now = time.monotonic()
        self._since = self._since or (step, now)
        first, began = self._since
        rate = {"rate": (step - first) / (now - began)} if step > first else {}  # steps a second
        self.held.facts = {"step": step, "steps": steps, **rate, **line}

    def history(self, lines: Sequence[Mapping[str, Any]]) -> None:
        if self.ours():
            self.unwritten = lines
            try:
                results.write_metrics(self.folder, lines)
                self.unwritten = ()
            except results.ResultsError as error:  # the next epoch's holds these lines as well
                warnings.warn(str(error), stacklevel=2)

    def keep(self, name: str, data: bytes) -> None:
        if self.ours():
            path = self.folder / name
            try:
                path.parent.mkdir(exist_ok=True)
                results.write(path, data)
            except (OSError, results.ResultsError) as error:  # a picture the fewer
                warnings.warn(str(error), stacklevel=2)

    def stop(self, *_: object) -> None:
        self.asked_to_stop = True

    def listen(self) -> None:
        """With every heartbeat: has somebody cancelled the run?"""
        self.cancelled = self.cancelled or lease.is_asked_to_stop(self.folder)

    def why_stopped(self) -> Cause:
        if self.held is not None and self.held.lost:
            return "taken over"
        if self.cancelled or lease.is_asked_to_stop(self.folder):
            return "cancelled"
        if time.monotonic() >= self.how.warned_at:
            return "time limit"
        return "preempted" if self.how.job else "interrupted"


def execute(run: Run, root: Path, how: How) -> str:
    """Carry out `run` unless it has a result; returns 'done' or 'diverged'.

    Raises lease.Held if another process has it, repro.tasks.Interrupted after a signal to stop (the
    state is saved), ResultsError or SpecError if its folder is not in order, and whatever the task
    raises. The signals of `repro.signals` and USR2 stop at the next step.
    """
    folder = results.begin(root, run)
    if (found := results.outcome(root, run)).result:
        return found.state
    first_rank = os.environ.get("RANK", "0") == "0"
    held = lease.acquire(folder, how.about, how.silence_seconds) if first_rank else None
    if not first_rank and how.attempt:
        patience = how.silence_seconds + _RANKS_WAIT
        if not lease.wait_for(folder, how.attempt, patience):
            raise results.ResultsError(f"the first rank did not begin within {patience:.0f} s")
    job = _Job(root, folder, how, held)
    stops = (*signals.heeded(), signal.SIGUSR2)
    before = {number: signal.signal(number, job.stop) for number in stops}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stops)  # they are held back until here
    end: Ending | None = None
    try:
        if held:
            if (found := results.outcome(root, run)).result:  # it came while we waited
                return found.state
            _refuse_hopeless(held)
            held.keep_beating(job.listen)
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if how.per_gpu > 1:
            _share_gpu(how.per_gpu)
        task = importlib.import_module(f"repro.tasks.{run.kind}")
        result = task.execute(run, job)
        if held and job.ours():
            if job.unwritten:
                results.write_metrics(folder, job.unwritten)
            _record(folder, result, started, held.seconds)
            shutil.rmtree(job.checkpoints, ignore_errors=True)
        return str(result.status)
    except BaseException as error:
        asked = type(error).__name__ == "Interrupted" or isinstance(error, KeyboardInterrupt)
        end = Ending(job.why_stopped(), str(error)) if asked else ending.of_error(error)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            held.release(end)


def _refuse_hopeless(held: lease.Lease) -> None:
    """SLURM requeues by itself what it has lost, without end; we do not."""
    lost = held.endings.get("lost", 0)
    if lost > ending.FURTHER["lost"]:
        raise results.ResultsError(f"lost {lost} times without a word; `repro retry` tries again")


def _share_gpu(runs: int) -> None:
    """Leave the others their part of the GPU's memory."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(1 / runs)


def _record(folder: Path, result: Any, started: str, seconds: float) -> None:
    """Write what the task handed back: its arrays, then, last, the result."""
    files = dict(result.files)
    if result.predictions:
        files[results.PREDICTIONS] = _npz(result.predictions)
    if result.weights:
        files[results.WEIGHTS] = _safetensors(result.weights)
    results.finish(
        folder,
        {
            "status": result.status,
            "metrics": dict(result.metrics),
            "provenance": _provenance(started, seconds) | dict(result.provenance),
        },
        files,
    )


def _npz(arrays: Mapping[str, Any]) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _safetensors(tensors: Mapping[str, Any]) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})


def _provenance(started: str, seconds: float) -> dict[str, Any]:
    packages = ("torch", "torchvision", "timm", "numpy")
    return {
        "started": started,
        "seconds": round(seconds, 1),  # of all processes that worked on the run
        **code.identity(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="python -m repro.launch.job", description=__doc__)
    parser.add_argument("spec", type=Path, help="a spec.json in its place in a results folder")
    parser.add_argument("--data", type=Path, default=How.data, help="the folder of the datasets")
    parser.add_argument("--weights", type=Path, help="a folder of released weights")
    parser.add_argument("--checkpoint-seconds", type=float, default=How.checkpoint_seconds)
    parser.add_argument("--micro-batch", type=int | None, help="images on one device at once")
    parser.add_argument("--decode", choices=("cpu", "nvjpeg"), default=How.decode)
    parser.add_argument("--speed", choices=("plain", "fast", "compiled"), default=How.speed)
    given = parser.parse_args(arguments)
    run = results.stored_run(given.spec.parent)
    root = given.spec.resolve().parent.parent
    lease.allow(results.folder(root, run))
    ranks.from_slurm()
    how = How(
        given.data,
        given.checkpoint_seconds,
        given.micro_batch,
        given.weights,
        given.decode,
        speed=given.speed,
    )
    print(execute(run, root, how))


if __name__ == "__main__":
    main()
