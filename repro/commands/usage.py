"""Wrong usage, and the nearest match to a mistyped word."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable

DIFFERS = 3  # exit status: something does not follow from the runs, or does not repeat


class UsageError(Exception):
    """Wrong usage: one line, exit status 2."""


def hint(word: str, names: Iterable[str]) -> str:
    """The nearest known name, ignoring case, or as many known names as fit into two lines."""
    spelled = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), spelled, 1, cutoff=0.5)
    some = textwrap.shorten(
        ", ".join(spelled.values()), 300, placeholder=" ...", break_on_hyphens=False
    )
    return f"did you mean {spelled[near[0]]}?" if near else f"there are {some}"
