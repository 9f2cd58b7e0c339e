"""Check the project on a GPU in about ten minutes, and write a report.

    python scripts/gpu_check [--minutes 10] [--data DIR] [--out DIR] [--device cpu]

Writes report.json and REPORT.md. Seven sections: the device; device-specific behaviour;
augmentation and tasks, compared between CPU and device; an interrupted run; rates of every model of
Tables 1 and 2 compared with timm's; NesT-T on CIFAR-10, which `repro prepare cifar10` puts into the
data folder. A failed item does not stop the others. Ctrl-C writes the report of the completed
items, if any. `--device cpu` tests the script itself, with small sizes.

Exit status: 0 success, 1 something failed, 2 no GPU or unwritable report, 130 stopped.
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

from repro.core import signals


@dataclass(frozen=True)
class Row:
    """The result of an item; `well` is None if nothing was compared."""

    item: str
    found: str
    well: bool | None = None
    seconds: float = 0.0
    numbers: dict[str, float] = field(default_factory=dict)


Report = dict[str, list[Row]]  # by section


def main() -> int:
    """Ctrl-C ends in one line, at any time."""
    with signals.as_interrupt():
        try:
            return check_and_report(options())
        except KeyboardInterrupt:
            return refuse("stopped before the first result; no report was written", 130)


def options() -> argparse.Namespace:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("gpu_check", description=__doc__, formatter_class=plain)
    parser.add_argument("--minutes", type=float, default=10.0,
                        help="items not reached by then are skipped (default: 10)")  # fmt: skip
    parser.add_argument("--data", type=Path, default=Path("data"),
                        help="the folder with CIFAR-10 (default: data)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path(),
                        help="where the report is written (default: here)")  # fmt: skip
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda",
                        help="cpu: a trial of the script (default: cuda)")  # fmt: skip
    return parser.parse_args()


def check_and_report(args: argparse.Namespace) -> int:
    """The exit status. KeyboardInterrupt if it was stopped with nothing to report."""
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    from repro import results

    if args.device == "cuda" and not torch.cuda.is_available():
        return refuse("torch finds no GPU here; `--device cpu` tries the script itself")
    if not (isfinite(args.minutes) and args.minutes > 0):
        return refuse("--minutes is a finite number above 0")
    report: Report = {}
    stopped = False
    try:
        results.require_writable(args.out, "--out DIR")
        with TemporaryDirectory() as scratch:
            device = torch.device(args.device)
            try:
                check(device, args.data, Path(scratch), 60 * args.minutes, report)
                signals.absorb(signals.unignored())  # from here on the report is written completely
            except KeyboardInterrupt:
                stopped = True
                if not any(report.values()):
                    raise
        write(args.out, environment(args.minutes, stopped), report)
    except (results.ResultsError, OSError) as error:
        return refuse(str(error))
    failed = [row for rows in report.values() for row in rows if row.well is False]
    print(f"{args.out / 'REPORT.md'}: {len(failed)} failed" + ", stopped" * stopped)
    return 130 if stopped else int(bool(failed))


def refuse(why: str, status: int = 2) -> int:
    print(f"gpu_check: {why}", file=sys.stderr)
    return status


def check(device: Any, data: Path, scratch: Path, seconds: float, report: Report) -> None:
    """Run every section within its share of the time, at least its first item."""
    import sections

    from repro.core import output

    small = device.type == "cpu"
    context = sections.Context(device, data, scratch, small)
    for title, (share, items) in sections.SECTIONS.items():
        rows = report.setdefault(title, [])
        context.deadline = time.monotonic() + share * seconds
        print(f"{title}:", flush=True)
        try:
            for number, (name, item) in enumerate(items(context)):
                late = number > 0 and not context.left
                rows.append(Row(name, "not reached within the time") if late else row(name, item))
                if not late:
                    print(output.line(f"  {name}: {rows[-1].found}"), flush=True)
        except Exception as error:  # listing the items failed
            rows.append(Row(title, error_text(error), False))


def row(name: str, item: Callable[[], Any]) -> Row:
    """The result of an item, including a failure."""
    began = time.monotonic()
    try:
        found = item()
        made = Row(name, found.text, found.well, 0.0, dict(found.numbers))
    except Exception as error:  # any error belongs in the report
        made = Row(name, error_text(error), False)
    return replace(made, seconds=round(time.monotonic() - began, 2))


def error_text(error: Exception) -> str:
    """The error in one line."""
    from repro.core import records

    return records.one_line(f"{type(error).__name__}: {error}", 400)


def environment(minutes: float, stopped: bool) -> dict[str, Any]:
    import timm
    import torch

    from repro.launch import code

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
    from repro import results
    from repro.core import output, records

    heading = "# A check on a GPU" + ", stopped before its end" * about["stopped"]
    lines = [heading, "", "Written by `python scripts/gpu_check`.", ""]
    lines += [f"- {name}: {output.markdown(str(value))}" for name, value in about.items()]
    verdicts = {True: "well", False: "FAILED", None: ""}
    for title, rows in report.items():
        lines += ["", f"## {title}", "", "| | found | |", "|---|---|---|"]
        lines += [f"| {output.markdown(row.item)} | {output.markdown(row.found)} | "
                  f"{verdicts[row.well]} |" for row in rows]  # fmt: skip
    rows_of = {title: [_plain(row) for row in rows] for title, rows in report.items()}
    content = records.encode({"about": about, "sections": rows_of}, indent=1)
    results.write(folder / "report.json", content + "\n")
    results.write(folder / "REPORT.md", "\n".join(lines) + "\n")


def _plain(row: Row) -> dict[str, Any]:
    """The row for JSON, which has no NaN."""
    return asdict(row) | {"numbers": {k: v for k, v in row.numbers.items() if isfinite(v)}}


if __name__ == "__main__":
    sys.exit(main())
