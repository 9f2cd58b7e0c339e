"""`python -m repro` and the console script `repro`."""

import io
import os
import sys


def main() -> None:
    """Run the command line. TERM, HUP and QUIT interrupt it like Ctrl-C."""
    _open_closed_streams()
    from repro.core import signals

    signals.interrupt_once()
    try:
        from repro.cli import main as run  # takes a moment
    except KeyboardInterrupt:
        print("\nrepro: interrupted", file=sys.stderr)
        sys.exit(130)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without ± gets a ?
            stream.reconfigure(errors="replace")
    status = run()
    signals.ignore()
    sys.exit(status)


def _open_closed_streams() -> None:
    """Open streams that the shell closed (`>&-`) on /dev/null, or other files would reuse them."""
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
