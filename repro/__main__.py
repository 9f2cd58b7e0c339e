"""`python -m repro` and the console script `repro`."""

import io
import os
import sys


def main() -> None:
    """Carry out the command line. TERM, HUP and QUIT interrupt as Ctrl-C does."""
    _open_closed_streams()
    from repro import signals
    from repro.cli import main as run

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without ± gets a ?
            stream.reconfigure(errors="replace")
    signals.interrupt_once()
    status = run()
    signals.ignore()
    sys.exit(status)


def _open_closed_streams() -> None:
    """Open what the shell closed (`>&-`) on /dev/null: else the next file would take its place."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    main()
