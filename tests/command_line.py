"""Calling `repro` in this process: exit status, standard output and errors."""

from __future__ import annotations

import pytest

from repro import cli

Capture = pytest.CaptureFixture[str]


def run_command(capsys: Capture, line: str) -> tuple[int, str, str]:
    """Run a command; returns its exit status, standard output and standard error."""
    try:
        status = cli.main(line.split())
    except SystemExit as error:  # help
        status = int(error.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def stdout_of(capsys: Capture, line: str) -> str:
    """The output of a command that must succeed without errors."""
    status, out, err = run_command(capsys, line)
    assert (status, err) == (0, "")
    return out


def error_of(capsys: Capture, line: str) -> str:
    """The error of a command that must be refused with exit status 2 and one line."""
    status, out, err = run_command(capsys, line)
    assert (status, out) == (2, "")
    assert_one_line(err)
    return err


def assert_one_line(err: str) -> None:
    assert err.startswith("repro: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert "Traceback" not in err
