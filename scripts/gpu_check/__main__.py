"""Try the project on a GPU in about ten minutes, and write a report of what was found.

    python scripts/gpu_check [--minutes 10] [--data DIR] [--out DIR] [--device cpu]

Writes REPORT.md and report.json. Seven sections: the device; what only a device can tell;
augmentation and tasks, equal on the CPU and on the device; an interrupted run; rates of every model
of Tables 1 and 2 beside timm's; NesT-T on CIFAR-10, which `repro prepare cifar10` puts into the
data folder. What fails ends nothing else. Ctrl-C writes the report of what was done. `--device cpu`
is a trial of this script itself, with small sizes.

Exit status: 0 well, 1 something failed, 2 no GPU, 130 stopped.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from repro import output, records, results, signals
from repro.launch import code


@dataclass(frozen=True)
class Row:
    """What came of an item; `well` is None where nothing was to be found equal."""

    item: str
    found: str
    well: bool | None = None
    seconds: float = 0.0
    numbers: dict[str, float] = field(default_factory=dict)


Report = dict[str, list[Row]]  # by section


def main() -> int:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("gpu_check", description=__doc__, formatter_class=plain)
    parser.add_argument("--minutes", type=float, default=10.0,
                        help="what is not reached by then is left out (default: 10)")  # fmt: skip
    parser.add_argument("--data", type=Path, default=Path("data"),
                        help="the folder that has CIFAR-10 (default: data)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path(),
                        help="where the report is written (default: here)")  # fmt: skip
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda",
                        help="cpu: a trial of the script (default: cuda)")  # fmt: skip
    given = parser.parse_args()
    if given.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    if given.device == "cuda" and not torch.cuda.is_available():
        return refuse("torch finds no GPU here; `--device cpu` tries the script itself")
    if not (isfinite(given.minutes) and given.minutes > 0):
        return refuse("--minutes is a finite number above 0")
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "REPORT.md").touch()
    except OSError as error:
        return refuse(f"cannot write to {given.out}: {error.strerror}; name another with --out")
    report: Report = {}
    stopped = False
    with signals.as_interrupt(), TemporaryDirectory() as scratch:
        try:
            check(torch.device(given.device), given.data, Path(scratch), 60 * given.minutes, report)
        except KeyboardInterrupt:
            stopped = True
        about = environment(given.minutes, stopped)
        write(given.out, about, report)
    failed = [row for rows in report.values() for row in rows if row.well is False]
    print(f"{given.out / 'REPORT.md'}: {len(failed)} failed" + ", stopped" * stopped)
    return 130 if stopped else int(bool(failed))


def refuse(why: str) -> int:
    print(f"gpu_check: {why}", file=sys.stderr)
    return 2


def check(device: Any, data: Path, scratch: Path, seconds: float, report: Report) -> None:
    """Carry out every section within its share of the time, at least its first item."""
    import sections

    small = device.type == "cpu"
    asked = sections.Asked(device, data, scratch, small)
    for title, (share, items) in sections.SECTIONS.items():
        rows = report.setdefault(title, [])
        asked.deadline = time.monotonic() + share * seconds
        print(f"{title}:", flush=True)
        try:
            for number, (name, item) in enumerate(items(asked)):
                late = number > 0 and not asked.left
                rows.append(Row(name, "not reached within the time") if late else row(name, item))
                if not late:
                    print(output.line(f"  {name}: {rows[-1].found}"), flush=True)
        except Exception as error:  # it could not even say what it would do
            rows.append(Row(title, said(error), False))


def row(name: str, item: Callable[[], Any]) -> Row:
    """What comes of an item, also if it fails."""
    began = time.monotonic()
    try:
        found = item()
        made = Row(name, found.text, found.well, 0.0, dict(found.numbers))
    except Exception as error:  # of any kind: the report is about it
        made = Row(name, said(error), False)
    return replace(made, seconds=round(time.monotonic() - began, 2))


def said(error: Exception) -> str:
    return records.one_line(f"{type(error).__name__}: {error}", 400)


def environment(minutes: float, stopped: bool) -> dict[str, Any]:
    import timm
    import torch

    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "minutes": minutes,
        "stopped": stopped,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "timm": timm.__version__,
        **code.identity(),
    }


def write(folder: Path, about: dict[str, Any], report: Report) -> None:
    lines = ["# A check on a GPU", "", "Written by `python scripts/gpu_check`.", ""]
    lines += [f"- {name}: {output.markdown(str(value))}" for name, value in about.items()]
    verdicts = {True: "well", False: "FAILED", None: ""}
    for title, rows in report.items():
        lines += ["", f"## {title}", "", "| | found | |", "|---|---|---|"]
        lines += [f"| {output.markdown(row.item)} | {output.markdown(row.found)} | "
                  f"{verdicts[row.well]} |" for row in rows]  # fmt: skip
    results.write(folder / "REPORT.md", "\n".join(lines) + "\n")
    rows_of = {title: [_plain(row) for row in rows] for title, rows in report.items()}
    content = records.encode({"about": about, "sections": rows_of}, indent=1)
    results.write(folder / "report.json", content + "\n")


def _plain(row: Row) -> dict[str, Any]:
    """As JSON has it, which knows no NaN."""
    return asdict(row) | {"numbers": {k: v for k, v in row.numbers.items() if isfinite(v)}}


if __name__ == "__main__":
    sys.exit(main())
