"""Escaping of text for output, by one function per target.

Names, notes and logs come from files that anybody may have written. They are escaped when they are
printed or drawn, not when they are read.
"""

from __future__ import annotations

import re
import sys

_MAX_LINE = 2000  # characters of a message


def terminal(text: str) -> str:
    """Text with escaped control characters, such as '\\x1b[2J'; line breaks and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else _escape(c) for c in text)


def line(text: str) -> str:
    """Text as one line for a terminal."""
    return terminal(" ".join(text.splitlines()))


def shortened(text: str) -> str:
    """A long text without its middle, such as an argument of a million characters."""
    if len(text) <= _MAX_LINE:
        return text
    return f"{text[: _MAX_LINE // 2]} … {text[-_MAX_LINE // 2 :]}"


def markdown(text: str) -> str:
    """Text as one line of Markdown, with HTML, links, headings and table cells escaped.

    Emphasis and code stay, since our notes use them.
    """
    plain = line(text).replace("<", "&lt;").replace("|", r"\|").replace("](", r"]\(")
    return re.sub(r"^(#|>|\[)", r"\\\1", plain)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


_WARNED = set[str]()


def warn(text: str) -> None:
    """Print a warning to standard error, once per command."""
    if text not in _WARNED:
        _WARNED.add(text)
        print(f"repro: warning: {line(text)}", file=sys.stderr, flush=True)


def begin() -> None:
    """Forget earlier warnings, at the start of a command."""
    _WARNED.clear()
