"""`python -m repro` and the console script `repro`."""

import io
import sys


def main() -> None:
    from repro.cli import main as run

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without ± gets a ?
            stream.reconfigure(errors="replace")
    sys.exit(run())


if __name__ == "__main__":
    main()
