"""Copy a part of a committed table into README.md: `python scripts/readme_table.py`.

The numbers are the table's own cells, never typed. `make verify` fails if README.md changes.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "tables" / "proxy" / "figure2.md"
NUM_ROWS = 6
COLUMNS = {
    "Patterns on plain grounds: trained, here": "patterns on plain grounds",
}
BLOCK = re.compile(r"(?<=<!-- table: figure2 -->\n).*?(?=<!-- end -->)", re.DOTALL)


def cells(line: str) -> list[str]:
    """The cells of a row of a Markdown table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def excerpt(table: str) -> str:
    """The first rows of a rendered table, in the columns of COLUMNS."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    header = cells(lines[0])
    columns = [0, *(header.index(name) for name in COLUMNS)]
    rows = [[header[0], *COLUMNS.values()], ["---", *["---:"] * len(COLUMNS)]]
    rows += [[cells(line)[i] for i in columns] for line in lines[2 : 2 + NUM_ROWS]]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def updated(page: str, table: str) -> str:
    """README's text with the excerpt of `table` between its markers."""
    return BLOCK.sub(lambda _: excerpt(table), page, count=1)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(updated(readme.read_text(), SOURCE.read_text()))
