"""Text on its way out: made harmless for where it is shown, by one function a target.

Names, notes and logs come from files that anybody may have written. What this program prints or
draws passes through here where it is printed or drawn, not where it is read.
"""

from __future__ import annotations

import re
import sys


def terminal(text: str) -> str:
    """Text whose control characters are spelled out, as '\\x1b[2J'; line breaks and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else _spelled(c) for c in text)


def line(text: str) -> str:
    """The same, in one line."""
    return terminal(" ".join(text.splitlines()))


def markdown(text: str) -> str:
    """Text in one line of Markdown without HTML, links, headings or cells of its own.

    Emphasis and code stay, as notes of this program have them.
    """
    plain = line(text).replace("<", "&lt;").replace("|", r"\|").replace("](", r"]\(")
    return re.sub(r"^(#|>|\[)", r"\\\1", plain)


def _spelled(character: str) -> str:
    return character.encode("unicode_escape").decode()


_WARNED = set[str]()


def warn(text: str) -> None:
    """A warning on standard error, once a command."""
    if text not in _WARNED:
        _WARNED.add(text)
        print(f"repro: warning: {line(text)}", file=sys.stderr, flush=True)


def begin() -> None:
    """A command begins: it has warned of nothing yet."""
    _WARNED.clear()
