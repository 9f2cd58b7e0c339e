"""`python -m repro` and the console script `repro`."""

import sys


def main() -> None:
    from repro.cli import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
