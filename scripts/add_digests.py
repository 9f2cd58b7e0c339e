"""Add to a run's result the SHA-256 of the files that it does not name, as old results do not.

`python scripts/add_digests.py results/RUN...`: for files that you trust. Nothing else is changed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repro import artifacts, records, results


def main(folders: Sequence[str]) -> None:
    """Add what is missing; a result that has every digest keeps its bytes."""
    for folder in map(Path, folders):
        path = folder / results.RESULT
        result = records.read(path, dict[str, Any])
        known = result.get("files", {})
        missing = artifacts.digests(folder, known)
        if missing:
            whole = result | {"files": known | missing}
            results.write(path, records.encode(whole, indent=1, sort_keys=True) + "\n")
            print(f"{path}: {', '.join(sorted(missing))}")


if __name__ == "__main__":
    main(sys.argv[1:])
