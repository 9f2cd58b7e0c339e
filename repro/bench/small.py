"""Training steps of Table 1's methods at demo scale, in this code and in another commit's.

A whole step as in a run: augmentation, forward, backward, optimiser. Each version has its own
process, which runs a few steps per turn.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import repro
from repro.bench import BenchError, BenchOptions
from repro.bench.measure import device_here, interleave
from repro.bench.record import Comparison
from repro.bench.side import Side
from repro.bench.small_side import demo
from repro.core import records
from repro.experiments.table1 import METHODS
from repro.launch import code
from repro.tasks import profiling
from repro.train import device as devices

ROOT = Path(repro.__file__).resolve().parents[1]
SCRIPT = Path(__file__).with_name("small_side.py")
MODELS = tuple(method for _, method, *_ in METHODS)

# Run a script without the finder of an editable install, which would supply modules of our code
# that an older commit lacks.
_RUN = (
    "import runpy, sys; "
    "sys.meta_path[:] = [f for f in sys.meta_path if '__editable__' not in f.__module__]; "
    "runpy.run_path(sys.argv.pop(1), run_name='__main__')"
)


def measure(options: BenchOptions) -> Iterator[Comparison]:
    with TemporaryDirectory() as folder:
        trees, commit = {"ours": ROOT}, options.against and resolve_commit(options.against)
        if commit:
            trees["theirs"] = _checkout(commit, Path(folder))
        for model in options.only or MODELS:
            with ExitStack() as stack:
                next_step = f"the code of {commit} may lack {model}; name a later commit"
                sides = {name: stack.enter_context(_side(model, tree, next_step * (tree != ROOT)))
                         for name, tree in trees.items()}  # fmt: skip
                runs = {name: side.ask("run", str) for name, side in sides.items()}
                if len({*runs.values()}) > 1:
                    raise BenchError(f"{model} is another run at {commit}; name a later commit")
                timers = {name: partial(side.ask, "go", float) for name, side in sides.items()}
                times = interleave(timers, options.rounds)
            yield Comparison(
                name=model,
                unit="ms an image",
                ours=[1e3 * value for value in times["ours"]],
                peer=commit and f"commit {commit}",
                theirs=[1e3 * value for value in times.get("theirs", [])],
                flop=_flop(model),
                precision="fp32" if devices.precision(device_here()) == "fp32" else "bf16",
            )


def _flop(model: str) -> float:
    """Floating-point operations of a training step per image: three forward passes."""
    return 6.0 * profiling.count(demo(model).cost_profile)["macs"]


def _side(model: str, tree: Path, next_step: str) -> Side:
    """A process that imports `repro` from the given tree."""
    return Side(["-P", "-c", _RUN, str(SCRIPT), model], {"PYTHONPATH": str(tree)}, next_step)


def resolve_commit(name: str) -> str:
    """The hash of a commit given by name. BenchError if git has no such commit here."""
    if not code.identity()["commit"]:
        raise BenchError("--against: there is no git, or no checkout of this code; take it out")
    args = (
        "rev-parse",
        "--quiet",
        "--verify",
        "--short=12",
        "--end-of-options",
        f"{name}^{{commit}}",
    )
    return _git(name, *args).decode().strip()


def _checkout(commit: str, folder: Path) -> Path:
    """Extract the package of a commit. BenchError if it has none."""
    with tarfile.open(fileobj=io.BytesIO(_git(commit, "archive", commit, "repro"))) as tar:
        tar.extractall(folder, filter="data")
    return folder


def _git(commit: str, *args: str) -> bytes:
    """The output of a git command. BenchError if it fails for this commit."""
    process = subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True)
    if process.returncode:
        error_text = records.one_line(process.stderr.decode(errors="replace"))
        why = error_text or "git has no such commit"
        raise BenchError(f"--against {commit!a:.80}: {why}; name a commit of this checkout")
    return process.stdout
