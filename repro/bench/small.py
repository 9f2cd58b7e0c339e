"""Training steps of Table 1's methods at proxy scale, by this code and by another commit's.

The whole step as a run makes it: augmentation, forward, backward, optimiser. Each code has a
process of its own, which goes a few steps ahead whenever it is its turn.
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
from repro import experiments, price
from repro.bench import BenchError, How
from repro.bench.measure import device_here, in_turns
from repro.bench.record import Comparison
from repro.bench.side import Side
from repro.bench.small_side import proxy
from repro.tasks import profiling
from repro.train import device as devices

HERE = Path(repro.__file__).resolve().parents[1]
SCRIPT = Path(__file__).with_name("small_side.py")
MODELS = tuple(experiments.get("table1").rows)


def measure(how: How) -> Iterator[Comparison]:
    with TemporaryDirectory() as folder:
        trees = {"ours": HERE}
        if how.against:
            trees["theirs"] = _checkout(how.against, Path(folder))
        for model in how.only or MODELS:
            with ExitStack() as stack:
                sides = {name: stack.enter_context(_side(model, tree))
                         for name, tree in trees.items()}  # fmt: skip
                runs = {name: side.ask("run", str) for name, side in sides.items()}
                if len({*runs.values()}) > 1:
                    raise BenchError(
                        f"{model} is another run at {how.against}; name a later commit"
                    )
                ways = {name: partial(side.ask, "go", float) for name, side in sides.items()}
                taken = in_turns(ways, how.rounds)
            yield Comparison(
                name=model,
                unit="ms an image",
                ours=[1e3 * value for value in taken["ours"]],
                peer=how.against and f"commit {how.against}",
                theirs=[1e3 * value for value in taken.get("theirs", [])],
                flop=_flop(model),
                precision="fp32" if devices.precision(device_here()) == "fp32" else "bf16",
            )


def _flop(model: str) -> float:
    """Floating-point operations of a training step, an image: three forward passes."""
    return 6.0 * profiling.count(price.counted(proxy(model)))["macs"]


def _side(model: str, tree: Path) -> Side:
    """A process whose `repro` is that of a tree."""
    return Side(["-P", str(SCRIPT), model], {"PYTHONPATH": str(tree)})


def _checkout(commit: str, folder: Path) -> Path:
    """The package as it was at a commit. BenchError if git does not have it."""
    command = ["git", "-C", str(HERE), "archive", "--end-of-options", commit, "repro"]
    try:
        done = subprocess.run(command, capture_output=True)
    except OSError as error:
        raise BenchError(f"git cannot be run ({error.strerror}); take --against out") from error
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())
        raise BenchError(f"--against {commit}: {said}; name a commit of this checkout")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder
