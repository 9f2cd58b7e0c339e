"""Execute one run on a node, from any state of its folder to its result.

`python -m repro.launch.job results/<run id>/spec.json` executes it in this process; under torchrun
or srun, in all ranks. It always resumes from the last checkpoint.
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
from typing import Any

from repro import paper, results
from repro.core import signals
from repro.execution import ExecutionOptions
from repro.launch import code, failures, lease, ranks
from repro.launch.failures import Cause, Failure
from repro.launch.pace import Pace
from repro.outdated import current_source
from repro.spec import Run

# Other ranks wait for rank 0 this much longer than the heartbeat timeout, which it may wait for.
_FIRST_RANK_MARGIN_SECONDS = 60.0


@dataclass
class _Job:
    """The launcher's implementation of `repro.tasks.Job`."""

    root: Path
    folder: Path
    options: ExecutionOptions
    own_lease: lease.Lease | None  # None on ranks other than 0
    parent: int = field(default_factory=os.getppid)
    stop_requested: bool = False
    cancelled: bool = False
    pending_metrics: Sequence[Mapping[str, Any]] = ()  # metrics that a full disk refused
    pace: Pace = field(default_factory=Pace)

    @property
    def halvings(self) -> int:
        return self.own_lease.failure_counts.get("out of memory", 0) if self.own_lease else 0

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def weights_path(self, run: Run) -> Path:
        return results.weights(self.root, run)

    def should_stop(self) -> bool:
        lease_lost = self.own_lease is not None and self.own_lease.lost
        return self.stop_requested or self.cancelled or lease_lost or self._orphaned()

    def still_owner(self) -> bool:
        return self.own_lease is not None and self.own_lease.renew()

    def _orphaned(self) -> bool:
        """Whether the process that launched us is dead.

        A local launcher is not our parent: we are forked from its server, which lives as long as we
        do.
        """
        launcher = multiprocessing.parent_process()
        alone = launcher is not None and not launcher.is_alive()
        return alone or os.getppid() != self.parent

    def report_progress(self, step: int, steps: int, line: Mapping[str, Any]) -> None:
        if not self.own_lease:
            return
        pace = self.pace.report(step, steps, time.monotonic())
        self.own_lease.facts = {"step": step, "steps": steps, **pace, **line}

    def write_metrics(self, lines: Sequence[Mapping[str, Any]]) -> None:
        if self.own_lease:
            news = self.pace.write_metrics(time.monotonic())
            self.own_lease.facts = self.own_lease.facts | news  # the heartbeat may read the old one
        if self.still_owner():
            self.pending_metrics = lines
            try:
                results.write_metrics(self.folder, lines)
                self.pending_metrics = ()
            except results.ResultsError as error:  # the next epoch writes these lines again
                warnings.warn(str(error), stacklevel=2)

    def save_preview(self, name: str, data: bytes) -> None:
        if self.still_owner():
            path = self.folder / name
            try:
                path.parent.mkdir(exist_ok=True)
                results.write(path, data)
            except (OSError, results.ResultsError) as error:  # losing one preview is harmless
                warnings.warn(str(error), stacklevel=2)

    def request_stop(self, *_: object) -> None:
        self.stop_requested = True

    def check_cancelled(self) -> None:
        """Called with every heartbeat: has the user cancelled the run?"""
        self.cancelled = self.cancelled or lease.is_cancel_requested(self.folder)

    def stop_cause(self) -> Cause:
        if self.own_lease is not None and self.own_lease.lost:
            return "taken over"
        if self.cancelled or lease.is_cancel_requested(self.folder):
            return "cancelled"
        if time.monotonic() >= self.options.warned_at:
            return "time limit"
        return "preempted" if self.options.job else "interrupted"


def execute(run: Run, root: Path, options: ExecutionOptions) -> str:
    """Execute `run` unless it has a result; returns 'done' or 'diverged'.

    Raises lease.RunLocked if another process trains the run, repro.tasks.Interrupted after a signal
    to stop (the state is saved), ResultsError or SpecError if the run's folder is damaged, and
    whatever the task raises. The signals of `repro.core.signals` and USR2 stop the run at the next
    step.
    """
    folder = results.begin(root, run)
    if (outcome := results.outcome(root, run)).result:
        return outcome.state
    first_rank = os.environ.get("RANK", "0") == "0"
    own_lease = (
        lease.acquire(folder, options.about, options.silence_seconds) if first_rank else None
    )
    if not first_rank and options.attempt:
        timeout = options.silence_seconds + _FIRST_RANK_MARGIN_SECONDS
        if not lease.wait_for_attempt(folder, options.attempt, timeout):
            raise results.ResultsError(f"rank 0 did not start within {timeout:.0f} s")
    job = _Job(root, folder, options, own_lease, pace=Pace.of(run))
    stops = (*signals.unignored(), signal.SIGUSR2)
    previous_handlers = {number: signal.signal(number, job.request_stop) for number in stops}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stops)  # blocked until here
    failure: Failure | None = None
    try:
        if own_lease:
            if (outcome := results.outcome(root, run)).result:  # finished while we waited
                return outcome.state
            if options.job:
                _check_retry_limit(own_lease)
            own_lease.start_heartbeat(job.check_cancelled)
        start_time = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        code_facts = _code_facts(run)  # the files may be edited while it trains
        if options.per_gpu > 1:
            _limit_gpu_memory(options.per_gpu)
        paper.import_models()
        task = importlib.import_module(run.task)
        from repro.tasks import Result

        result = task.execute(run, job)
        if not isinstance(result, Result):
            raise TypeError(f"{run.task}.execute returned {result!r}, not a Result")
        if own_lease and job.still_owner():
            if job.pending_metrics:
                results.write_metrics(folder, job.pending_metrics)
            facts = _provenance(code_facts, start_time, own_lease.seconds)
            _write_result(folder, result, facts)
            shutil.rmtree(job.checkpoints, ignore_errors=True)
        return str(result.status)
    except BaseException as error:
        was_stopped = type(error).__name__ == "Interrupted" or isinstance(error, KeyboardInterrupt)
        failure = (
            Failure(job.stop_cause(), str(error)) if was_stopped else failures.from_error(error)
        )
        raise
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
        if own_lease:
            own_lease.release(failure)


def _check_retry_limit(own_lease: lease.Lease) -> None:
    """Refuse a run that was lost too often. SLURM requeues lost jobs without limit; outside SLURM,
    whoever repeats the command decides."""
    times_lost = own_lease.failure_counts.get("lost", 0)
    if times_lost > failures.MAX_RETRIES["lost"]:
        raise results.ResultsError(f"lost {times_lost} times; `repro retry` tries again")


def _limit_gpu_memory(runs: int) -> None:
    """Limit this process to its share of the GPU's memory."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(1 / runs)


def _write_result(folder: Path, result: Any, provenance: Mapping[str, Any]) -> None:
    """Write the task's files, then the result as the last one."""
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
            "provenance": {**provenance, **result.provenance},
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


def _code_facts(run: Run) -> dict[str, str]:
    """The code that this process runs, and the digest of the part that the run depends on."""
    digest = current_source(run)
    return {**code.identity(), **({"source": digest} if digest else {})}


def _provenance(code_facts: Mapping[str, str], start_time: str, seconds: float) -> dict[str, Any]:
    packages = ("torch", "torchvision", "timm", "numpy")
    return {
        "started": start_time,
        "seconds": round(seconds, 1),  # over all attempts
        **code_facts,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="python -m repro.launch.job", description=__doc__)
    parser.add_argument("spec", type=Path, help="a run's spec.json in its results folder")
    parser.add_argument(
        "--data", type=Path, default=ExecutionOptions.data, help="the folder of the datasets"
    )
    parser.add_argument("--weights", type=Path, help="a folder of released weights")
    parser.add_argument(
        "--checkpoint-seconds", type=float, default=ExecutionOptions.checkpoint_seconds
    )
    parser.add_argument("--micro-batch", type=int | None, help="images on one device at once")
    parser.add_argument("--decode", choices=("cpu", "nvjpeg"), default=ExecutionOptions.decode)
    parser.add_argument(
        "--speed", choices=("plain", "fast", "compiled"), default=ExecutionOptions.speed
    )
    args = parser.parse_args(arguments)
    run = results.stored_run(args.spec.parent)
    root = args.spec.resolve().parent.parent
    lease.clear_cancel(results.folder(root, run))
    ranks.from_slurm()
    options = ExecutionOptions(
        args.data,
        args.checkpoint_seconds,
        args.micro_batch,
        args.weights,
        args.decode,
        speed=args.speed,
    )
    print(execute(run, root, options))


if __name__ == "__main__":
    main()
