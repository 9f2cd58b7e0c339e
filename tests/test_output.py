"""Text from files cannot act on where it is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.core import output


@given(st.text())
def test_a_terminal_gets_no_control_characters(text: str) -> None:
    shown = output.terminal(text)
    assert all(c.isprintable() or c in "\n\t" for c in shown)
    shown.encode()  # and no lone surrogates, at which printing would end


def test_what_we_write_ourselves_stays() -> None:
    ours = "NesT-T: 96.10 ± 0.35 (3)\n“order” × – ‡ é █░\t|"
    assert output.terminal(ours) == ours


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb\r\n", "a\\x1b[2Jb"),
        ("<script>", "&lt;script>"),
        ("x\n\n# Heading", "x  # Heading"),
        ("# Heading", "\\# Heading"),
        ("a | b", "a \\| b"),
        ("[a](javascript:b)", "\\[a]\\(javascript:b)"),
        ("96.10 [95.0, 97.0]", "96.10 [95.0, 97.0]"),
        ("`repro why` tells", "`repro why` tells"),
    ],
)
def test_markdown_gets_no_markup_of_its_own(text: str, shown: str) -> None:
    assert output.markdown(text) == shown


def test_a_warning_is_printed_once_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    output.begin()
    output.warn("a\x1b")
    output.warn("a\x1b")
    output.begin()
    output.warn("a\x1b")
    assert capsys.readouterr().err == 2 * "repro: warning: a\\x1b\n"
