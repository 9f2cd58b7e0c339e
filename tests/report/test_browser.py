"""The report in a browser, Debian's Chromium: evidence, links, filters, phones, accessibility."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Request, sync_playwright

from repro.core.claims import VERDICTS
from repro.report import page as pages
from repro.report.content import Report
from tests.report.conftest import report_of
from tests.report.test_report import HOSTILE, report_with

# Nothing of the browser's own may ask the network.
OFFLINE = ("--disable-quic", "--disable-background-networking", "--disable-component-update",
           "--disable-sync", "--no-first-run", "--no-sandbox", "--disable-gpu")  # fmt: skip

# Opens the evidence of every cell; returns what is wrong with any.
OPEN_EVERY_CELL = """() => {
  const wrong = [];
  const dialog = document.getElementById("why");
  const buttons = document.querySelectorAll("button[data-cell]");
  for (const button of buttons) {
    button.click();
    const text = document.getElementById("why-content").textContent;
    const value = dialog.querySelector(".value").textContent;
    const inTable = button.closest("td");
    if (!dialog.open || !document.getElementById("why-title").textContent
        || (inTable && value !== button.textContent) || !text.includes("Run")
        || !text.includes("repro ") || dialog.querySelectorAll("details").length < 1
        || !location.hash.startsWith("#why/") || text.includes("undefined")) {
      wrong.push(button.textContent);
    }
  }
  document.getElementById("close").click();
  if (dialog.open) wrong.push("still open");
  return [buttons.length, wrong];
}"""

# Follows every link, and returns those whose target is not to be seen then.
FOLLOW_EVERY_LINK = """async () => {
  const wrong = [];
  document.documentElement.style.scrollBehavior = "auto";
  const links = document.querySelectorAll("a");
  for (const link of links) {
    link.click();
    await new Promise((resolve) => setTimeout(resolve, 0));
    const target = document.getElementById(link.getAttribute("href").slice(1));
    if (!target || !target.checkVisibility() || location.hash !== link.hash) {
      wrong.push(link.getAttribute("href"));
    }
  }
  return [links.length, wrong];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    assert program, "there is no chromium; `make` installs it, or `apt-get install chromium`"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=OFFLINE)
        yield found
        found.close()


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a few items, with groups, figures, claims, curves and holes."""
    path = tmp_path_factory.mktemp("some") / "report.html"
    path.write_text(pages.html(report_of("table1", "figure2", "search_augmentation")))
    return path


def opened(
    browser: Browser, path: Path, width: int = 1280, *, is_dark: bool = False
) -> tuple[Page, list[str]]:
    """A page, and what it has complained of or asked for, which grows."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if is_dark else "light"
    )
    page, complaints = context.new_page(), list[str]()

    def note_request(request: Request) -> None:
        if not request.url.startswith(("file://", "data:")):
            complaints.append(f"asks for {request.url}")

    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", note_request)
    page.goto(path.as_uri())
    return page, complaints


def test_every_cell_opens_and_every_link_leads_somewhere(
    browser: Browser, whole: Report, whole_page: str, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    path.write_text(whole_page)
    page, complaints = opened(browser, path)
    number, wrong = page.evaluate(OPEN_EVERY_CELL)
    assert wrong == []
    assert number >= sum(len(placed.block.cells) for placed in whole.blocks)
    number, wrong = page.evaluate(FOLLOW_EVERY_LINK)
    assert wrong == []
    assert number > len(whole.sections)
    assert complaints == []


def test_a_cell_by_keyboard(browser: Browser, some: Path) -> None:
    page, complaints = opened(browser, some)
    button = page.locator("#figure2-proxy td button").first
    button.focus()
    page.keyboard.press("Enter")
    assert page.locator("#why").is_visible()
    address = page.url
    assert "#why/proxy/figure2/" in address
    page.keyboard.press("Tab")  # from the button that closes to the first run
    page.keyboard.press("Enter")
    assert page.locator("#why details[open]").count() >= 1
    page.keyboard.press("Escape")
    assert not page.locator("#why").is_visible()
    assert button.evaluate("element => element === document.activeElement")
    assert "#" not in page.url
    page.goto(address)  # a link to the evidence of one number
    page.reload()
    assert page.locator("#why .value").inner_text() == button.inner_text()
    assert complaints == []


def test_filters_by_keyboard(browser: Browser, some: Path) -> None:
    page, complaints = opened(browser, some)
    tests = page.locator(".tests > li[data-verdict]")
    every = tests.evaluate_all(
        "all => all.map(e => [e.dataset.verdict, e.closest('.claim').dataset.scale])"
    )
    shown = page.locator(".tests > li[data-verdict]:visible")
    assert shown.count() == len(every) > 0
    page.locator("#filters input").first.focus()
    for verdict in VERDICTS:
        page.keyboard.press("ArrowRight")
        expected = sum(each[0] == verdict for each in every)
        assert shown.count() == expected, verdict
        assert page.locator("#shown").inner_text() == f"{expected} of {len(every)} tests shown"
    page.keyboard.press("ArrowRight")  # around to all
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert shown.count() == sum(each[1] == "paper" for each in every)
    page.keyboard.press("ArrowRight")
    assert shown.count() == sum(each[1] == "proxy" for each in every)
    assert page.locator(".claim:visible").count() < page.locator(".claim").count()
    assert complaints == []


@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_phone_scrolls_in_one_direction(browser: Browser, some: Path, width: int) -> None:
    page, complaints = opened(browser, some, width)
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    wide = "document.documentElement.scrollWidth"
    assert page.evaluate(wide) <= width
    page.locator("#figure2-proxy td button").first.click()
    page.evaluate("document.querySelectorAll('#why details').forEach(each => { each.open = true })")
    assert page.evaluate(wide) <= width
    assert page.evaluate("why.scrollWidth <= why.clientWidth")
    assert complaints == []


@pytest.mark.parametrize("is_dark", [False, True])
@pytest.mark.parametrize("with_evidence", [False, True])
def test_axe_finds_nothing_serious(
    browser: Browser, some: Path, is_dark: bool, with_evidence: bool
) -> None:
    page, _ = opened(browser, some, is_dark=is_dark)
    if with_evidence:
        page.locator("#figure2-proxy td button").first.click()
        page.evaluate("document.querySelector('#why details').open = true")
    found = Axe().run(page, context="#why" if with_evidence else None)
    serious = [(each["id"], [node["html"][:200] for node in each["nodes"]][:3])
               for each in found.response["violations"]
               if each["impact"] in ("serious", "critical")]  # fmt: skip
    assert serious == []
    assert len(found.response["passes"]) > 5


def test_it_prints_what_is_folded(browser: Browser, some: Path) -> None:
    page, complaints = opened(browser, some)
    page.evaluate("""() => {
      window.folded = [];
      const count = () => window.folded.push(
        document.querySelectorAll("main details:not([open])").length);
      count();
      window.addEventListener("beforeprint", count);
      window.addEventListener("afterprint", count);
    }""")
    assert page.pdf().startswith(b"%PDF")
    before, printed, after = page.evaluate("window.folded")
    assert (printed, after) == (0, before)
    assert before > 0
    assert complaints == []


@pytest.mark.parametrize("text", [HOSTILE, "__proto__", "constructor"])
def test_hostile_text_does_nothing(browser: Browser, tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.html"
    path.write_text(pages.html(report_with(text)))
    page, complaints = opened(browser, path)
    before = page.locator("script, img").count()
    page.locator("td button").first.click()
    page.locator("#why summary").first.click()
    assert page.locator("script, img").count() == before
    assert page.locator("#why img, #why script").count() == 0
    assert complaints == []
