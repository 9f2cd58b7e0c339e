"""Any text as ASCII for pdfLaTeX, without packages."""

from __future__ import annotations

import re
import unicodedata

_SPECIAL = {
    **{char: rf"\{char}" for char in "&%_#${}"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    "–": "--",
    "—": "---",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "…": r"\dots{}",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "§": r"\S{}",
    "·": r"\textperiodcentered{}",
    "ß": r"\ss{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
}
_MATHS = {
    "±": r"\pm",
    "×": r"\times",
    "−": "-",
    "∂": r"\partial",
    "√": r"\surd",
    "∞": r"\infty",
    "°": r"^{\circ}",
    "≤": r"\le",
    "≥": r"\ge",
    "≠": r"\ne",
    "≈": r"\approx",
    "←": r"\leftarrow",
    "→": r"\rightarrow",
    "↑": r"\uparrow",
    "↓": r"\downarrow",
    "∇": r"\nabla",
    "∈": r"\in",
    "∑": r"\sum",
    "µ": r"\mu",
}
_GREEK = "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ"  # TeX has no commands for those that look Latin
_ACCENTS = {
    "\N{COMBINING GRAVE ACCENT}": "`",
    "\N{COMBINING ACUTE ACCENT}": "'",
    "\N{COMBINING CIRCUMFLEX ACCENT}": "^",
    "\N{COMBINING TILDE}": "~",
    "\N{COMBINING DIAERESIS}": '"',
    "\N{COMBINING MACRON}": "=",
    "\N{COMBINING BREVE}": "u",
    "\N{COMBINING DOT ABOVE}": ".",
    "\N{COMBINING RING ABOVE}": "r",
    "\N{COMBINING CARON}": "v",
    "\N{COMBINING CEDILLA}": "c",
    "\N{COMBINING DOUBLE ACUTE ACCENT}": "H",
}
_SCRIPTS = {"<super>": "textsuperscript", "<sub>": "textsubscript"}

_MINUS = re.compile(r"(?<![\w)\]-])-(?=[\d.∞])")  # and not a hyphen
_CODE = re.compile(r"`([^`]+)`")
_LIGATURES = re.compile(r"([-',])(?=\1)")  # the first of two equal characters


def tex(text: str) -> str:
    """Text escaped for pdfLaTeX; a character that it lacks becomes its code: '[U+4E2D]'.

    White space becomes one space, since an empty line would end a paragraph. A bracket or star at
    the beginning is put in braces, so that it is not read as an argument of a preceding command.
    """
    plain = unicodedata.normalize("NFC", " ".join(text.split()))
    plain = _MINUS.sub("−", plain)
    parts = [_escape_text(part) for part in _CODE.split(plain)]  # every other one is code
    parts[1::2] = [rf"\texttt{{{code}}}" for code in parts[1::2]]
    escaped = "".join(parts)
    return f"{{{escaped[0]}}}{escaped[1:]}" if escaped[:1] in ("[", "*") else escaped


def _escape_text(text: str) -> str:
    return "".join(map(_escape, _LIGATURES.sub("\\1\0", text)))


def _escape(char: str) -> str:
    if char == "\0":  # prevents a ligature
        return "{}"
    if char in _SPECIAL:
        return _SPECIAL[char]
    if " " <= char <= "~":
        return char
    if char in _MATHS:
        return f"${_MATHS[char]}$"
    if char in _GREEK:
        return rf"$\{_greek(char)}$"
    kind, _, rest = unicodedata.decomposition(char).partition(" ")
    if kind in _SCRIPTS:
        return rf"\{_SCRIPTS[kind]}{{{tex(chr(int(rest.split()[0], 16)))}}}"
    base, *marks = list(unicodedata.normalize("NFD", char))
    if len(marks) == 1 and marks[0] in _ACCENTS and base.isascii():
        return rf"\{_ACCENTS[marks[0]]}{{{base}}}"
    return f"[U+{ord(char):04X}]"


def _greek(char: str) -> str:
    """TeX's name of a Greek letter: 'alpha', 'Delta'."""
    _, case, *_, name = unicodedata.name(char).replace("LAMDA", "LAMBDA").split()
    return name.capitalize() if case == "CAPITAL" else name.lower()
