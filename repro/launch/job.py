"""What runs on a node: one run, from whatever state its folder is in, to its result.

`python -m repro.launch.job results/<run id>/spec.json` does it in this process; under torchrun, in
all of its ranks. Whoever starts it, and however often, the run goes on where it was.
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
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro import results, spec
from repro.launch import lease
from repro.spec import Run

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


@dataclass(frozen=True)
class How:
    """How runs are carried out: nothing here changes what they compute."""

    data: Path = Path("data")
    checkpoint_seconds: float = 60.0
    micro_batch: int | None = None  # images on one device at once; None: the whole share


@dataclass
class _Job:
    """The launcher's side of `repro.tasks.Job`."""

    folder: Path
    data: Path
    checkpoint_seconds: float
    micro_batch: int | None
    held: lease.Lease | None  # None on ranks other than the first
    parent: int = field(default_factory=os.getppid)
    asked_to_stop: bool = False

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def stopping(self) -> bool:
        return self.asked_to_stop or self._orphaned() or (self.held is not None and self.held.lost)

    def _orphaned(self) -> bool:
        """Whether whoever started us was killed.

        A local launcher is not our parent: the server is, from which we were forked, and it lives
        as long as one of us.
        """
        launcher = multiprocessing.parent_process()
        alone = launcher is not None and not launcher.is_alive()
        return alone or os.getppid() != self.parent

    def progress(self, step: int, steps: int, line: Mapping[str, Any]) -> None:
        if self.held:
            self.held.facts = {"step": step, "steps": steps, **line}

    def history(self, lines: Sequence[Mapping[str, Any]]) -> None:
        results.write_metrics(self.folder, lines)

    def stop(self, *_: object) -> None:
        self.asked_to_stop = True


def execute(run: Run, root: Path, how: How) -> str:
    """Carry out `run` unless it has a result; returns 'done' or 'diverged'.

    Raises lease.Held if another process has it, repro.tasks.Interrupted after a signal to stop (the
    state is saved), ResultsError or SpecError if its folder is not in order, and whatever the task
    raises. Signals: TERM, INT and USR2 stop at the next step.
    """
    folder = results.begin(root, run)
    if (found := results.outcome(root, run)).result:
        return found.state
    first_rank = os.environ.get("RANK", "0") == "0"
    held = lease.acquire(folder) if first_rank else None
    job = _Job(folder, how.data, how.checkpoint_seconds, how.micro_batch, held)
    before = {number: signal.signal(number, job.stop) for number in _STOP_SIGNALS}
    try:
        if held:
            held.keep_beating()
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        task = importlib.import_module(f"repro.tasks.{run.kind}")
        result = task.execute(run, job)
        if held and not held.lost:
            if result.predictions:
                results.write(folder / results.PREDICTIONS, _npz(result.predictions))
            if result.weights:
                results.write(folder / results.WEIGHTS, _safetensors(result.weights))
            provenance = _provenance(started, held.seconds) | dict(result.provenance)
            results.finish(
                folder,
                {
                    "status": result.status,
                    "metrics": dict(result.metrics),
                    "provenance": provenance,
                },
            )
            shutil.rmtree(job.checkpoints, ignore_errors=True)
        return str(result.status)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            held.release()


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
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def _commit() -> str:
    """The commit of this code, with '+' if the code differs from it; '' outside a checkout."""
    here = Path(__file__).resolve().parents[2]
    git = ["git", "-C", str(here)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "repro"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if changed.stdout else "")


def main(arguments: Sequence[str] | None = None) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="python -m repro.launch.job", description=__doc__)
    parser.add_argument("spec", type=Path, help="a spec.json in its place in a results folder")
    parser.add_argument("--data", type=Path, default=How.data, help="the folder of the datasets")
    parser.add_argument("--checkpoint-seconds", type=float, default=How.checkpoint_seconds)
    parser.add_argument("--micro-batch", type=int | None, help="images on one device at once")
    given = parser.parse_args(arguments)
    run = spec.from_json(given.spec.read_text())
    root = given.spec.resolve().parent.parent
    print(execute(run, root, How(given.data, given.checkpoint_seconds, given.micro_batch)))


if __name__ == "__main__":
    main()
