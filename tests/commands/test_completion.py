"""`repro completion SHELL`: the script, and what bash completes with it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from repro import cli, experiments
from repro.commands.names import NAMES
from repro.commands.registry import COMMANDS
from tests.command_line import Capture, error_of

COMPLETE = """
source {script}
COMP_WORDS=(repro {words} "")
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
COMP_LINE="repro {words} "
COMP_POINT=${{#COMP_LINE}}
$(complete -p repro | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "repro.bash"
    with pytest.MonkeyPatch.context() as patch, path.open("w") as file:
        patch.setattr("sys.stdout", file)
        assert cli.main(["completion", "bash"]) == 0
    return path


def completed(script: Path, words: str) -> set[str]:
    """What bash offers after these words of a command line."""
    command = ["bash", "-c", COMPLETE.format(script=script, words=words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_commands_and_items_are_completed(script: Path) -> None:
    offered = completed(script, "")
    assert offered >= {*NAMES, *experiments.names()}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("table1 --launch", {"none", "local", "slurm"}),
        ("plan --scale", {"paper", "proxy", "demo", "smoke"}),
        ("completion", {"bash", "zsh", "tcsh"}),
        ("status", {"table1", "figure7"}),
    ],
)
def test_values_are_completed(script: Path, words: str, expected: set[str]) -> None:
    assert completed(script, words) >= expected


def test_every_command_is_in_the_registry(capsys: Capture) -> None:
    assert tuple(COMMANDS) == NAMES
    assert "invalid choice: 'fish'" in error_of(capsys, "completion fish")
