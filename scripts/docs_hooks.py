"""Hooks of mkdocs.yml: README.md is the first page, and what pages link to comes with them.

Links in the repository are relative to its folders, so that they work where the files are read; the
site has the pages of docs/ at its root.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
README = "README.md"
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README.md as the first page, and every file outside docs/ that a page links to."""
    pages = [ROOT / README, *Path(config.docs_dir).glob("*.md"), ROOT / "CONTRIBUTING.md"]
    linked = {path for page in pages for path in _outside_docs(page, Path(config.docs_dir))}
    for path in sorted({*linked, ROOT / "CONTRIBUTING.md"} - {ROOT / README}):
        files.append(_file(config, path.relative_to(ROOT).as_posix(), path))
    files.append(_file(config, "index.md", ROOT / README))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are in the repository, rewritten to those of the site."""
    in_docs = (
        page.file.src_uri not in ("index.md", "CONTRIBUTING.md")
        and (Path(config.docs_dir) / page.file.src_uri).exists()
    )
    return LINK.sub(lambda match: _site_link(match[1], in_docs), markdown)


def _outside_docs(page: Path, docs: Path) -> list[Path]:
    """The files that a page links to and that are not below `docs`."""
    targets = [(page.parent / link).resolve() for link in LINK.findall(page.read_text())]
    return [path for path in targets if path.is_file() and docs.resolve() not in path.parents]


def _file(config: MkDocsConfig, uri: str, path: Path) -> File:
    return File.generated(config, uri, abs_src_path=str(path))


def _site_link(link: str, in_docs: bool) -> str:
    """A link of a page at the root of the site."""
    path = link.removeprefix("../") if in_docs else link.removeprefix("docs/")
    return "index.md" if path == README else str(PurePosixPath(path))
