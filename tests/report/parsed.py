"""A page as its elements."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any


@dataclass
class Element:
    name: str
    attributes: dict[str, str]
    text: str = ""  # within it, also within the elements in it


@dataclass
class Page(HTMLParser):
    """The elements of a page, in their order."""

    elements: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open = list[Element]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        if tag not in ("meta", "link", "img", "input", "br"):
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop().name != tag:
            pass

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def named(self, name: str) -> list[Element]:
        return [element for element in self.elements if element.name == name]

    def buttons(self) -> list[Element]:
        """The buttons that open the evidence of a cell."""
        return [each for each in self.named("button") if "data-cell" in each.attributes]

    @property
    def policy(self) -> str:
        (meta,) = [each for each in self.named("meta") if "http-equiv" in each.attributes]
        return meta.attributes["content"]

    @property
    def evidence(self) -> dict[str, Any]:
        (script,) = [each for each in self.named("script") if each.attributes]
        found: dict[str, Any] = json.loads(script.text)
        return found


def parse(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    return page


def plain(text: str) -> str:
    """A text with white space as a browser shows it."""
    return re.sub(r"\s+", " ", text).strip()
