"""The pages that a reader begins with: links resolve, and rendered items are complete."""

from __future__ import annotations

import re
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest

from repro import experiments

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md",
         *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))))  # fmt: skip
ROWS = re.findall(r"^\| (`.*?) \| .* \| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
KEPT = r"(?:repro|benchmarks|docs|scripts|slurm|tables|tests)/[\w./-]+"  # paths of this repository


def anchors(page: Path) -> set[str]:
    """The headings of a page, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_points_at_is_there(name: str) -> None:
    page = ROOT / name
    text = page.read_text()
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
    for path in re.findall(rf"`({KEPT})`", text):
        assert "<" in path or (ROOT / path).exists(), path


def test_the_states_are_of_every_item_of_the_paper() -> None:
    named = {item for items, _ in ROWS for item in re.findall(r"`(\w+)`", items)}
    assert named <= {*experiments.names()}
    ours = {name for name in experiments.names() if name.startswith("search_")}
    assert {*experiments.names()} - named == ours | {"figure5_left_sagan"}


@pytest.mark.parametrize(
    "state", [state for _, state in ROWS if re.search("rendered|measured", state)]
)
def test_what_is_called_rendered_has_no_hole(state: str) -> None:
    links = re.findall(r"\]\((.+?)\)", state)
    assert links
    assert all("not run" not in (ROOT / link).read_text() for link in links)


def test_the_readme_has_the_numbers_of_the_committed_table() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "readme_table.py"))
    page, table = (ROOT / "README.md").read_text(), script["SOURCE"].read_text()
    assert len(script["excerpt"](table).splitlines()) == 8
    assert script["updated"](page, table) == page
    assert script["updated"](page, table.replace("7", "8")) != page


@pytest.mark.parametrize(
    "module", re.findall(r"^::: (\S+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
)
def test_the_modules_of_the_api_reference_exist(module: str) -> None:
    assert find_spec(module)


FINDINGS = (ROOT / "docs" / "findings.md").read_text()


def test_the_numbers_of_the_findings_are_those_of_the_tables() -> None:
    tables = "\n".join(page.read_text() for page in (ROOT / "tables").rglob("*.md"))
    known = set(re.findall(r"[\d.]+\w?", tables))
    numbers = re.findall(r"\d+\.\d+[MG]?", FINDINGS)
    assert len(numbers) > 30
    assert not set(numbers) - known


def test_the_verdicts_of_the_findings_are_those_of_the_claims() -> None:
    counts = re.findall(
        r"Of (\d+) tests,\s(\d+)\shold,\s(\d+)\sare\sundecided\sand\s(\d+)\sare\scontradicted",
        FINDINGS,
        re.IGNORECASE,
    )
    items = (("figure2", "figure3_left"), ("figure3_right", "figure4"))
    assert len(counts) == len(items)
    for names, numbers in zip(items, counts, strict=True):
        pages = [(ROOT / "tables" / "proxy" / f"{name}.md").read_text() for name in names]
        words = re.findall(r"^- (Holds|Undecided|Contradicted) at proxy scale: (?!.*along the)",
                           "\n".join(pages), re.MULTILINE)  # fmt: skip
        verdicts = [words.count(word) for word in ("Holds", "Undecided", "Contradicted")]
        assert [len(words), *verdicts] == [int(number) for number in numbers]
