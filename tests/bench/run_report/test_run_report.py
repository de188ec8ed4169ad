"""The report: well-formed, harmless whatever a run was called, and whole in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_runs import fill, requests, results

from vivace.bench.run_report.report import run_report
from vivace.bench.store.result_store import ResultStore

CHROMIUM = next((path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(path).exists()), None)
DEADLINE_MS = 120_000
VOID = {"meta", "link", "br"}
NO_TEXT = {"rect", "circle", "line", "path"}


class Outline(HTMLParser):
    """Checks that tags close in order, and collects what would reach out or run."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in NO_TEXT | VOID, (tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("report") / "results.sqlite"
    fill(path)
    read = results(path)
    return {"one": run_report(read[:1]), "unfinished": run_report(read[-1:]), "sweep": run_report(read)}


@pytest.mark.parametrize("kind", ["one", "unfinished", "sweep"])
def test_well_formed_and_self_contained(pages: dict[str, str], kind: str) -> None:
    outline = Outline(pages[kind])
    assert "script" not in outline.tags
    assert outline.addresses == ["data:,"]
    assert "url(" not in pages[kind]
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r'"[^"]*"', "", pages[kind]))


def test_what_a_reader_looks_for(pages: dict[str, str]) -> None:
    for words in ("TTFT", "TPOT", "KV cache in use", "Goodput", "16.0 GiB", "Command", "did not", "6 failed"):
        assert (words in pages["one"]) == (words != "did not"), words
    assert "did not come to its end" in pages["unfinished"]
    assert "TTFT against throughput" in pages["sweep"]


def test_every_picture_has_words(pages: dict[str, str]) -> None:
    for document in pages.values():
        pictures = re.findall(r"<svg [^>]*>", document)
        assert pictures
        assert all('role="img"' in picture and 'aria-label="' in picture for picture in pictures)


def test_a_run_with_nothing_in_it(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with ResultStore(path) as store:
        store.begin("serve", "nothing", {}, {})
        failed = store.begin("serve", "only failures", {}, {})
        for record in requests(4.0, 10)[9:]:
            store.add_request(failed, record)
        store.finish(store.begin("optimize", "of another kind", {}, {}), {"best": {"speed": 3.0}})
    read = results(path)
    for one in read:
        Outline(run_report([one]))
    Outline(run_report(read))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as driver:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=flags, timeout=DEADLINE_MS)
        yield opened
        opened.close()


@pytest.mark.parametrize("kind", ["one", "sweep"])
def test_in_a_browser(pages: dict[str, str], kind: str, browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(pages[kind])
    page = browser.new_page()
    page.set_default_timeout(DEADLINE_MS)
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    for width, scheme in ((400, "light"), (1200, "dark")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        page.goto(file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        shown = page.eval_on_selector_all(
            "svg", "all => all.filter(one => one.getBoundingClientRect().width > 0).length"
        )
        assert shown == pages[kind].count("<svg ") / 2  # of each chart, the drawing for this width
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
        beyond = page.eval_on_selector_all(
            "svg",
            "all => all.filter(one => { const box = one.getBoundingClientRect(), marks = one.getBBox();"
            " const end = marks.x + marks.width, room = one.viewBox.baseVal.width;"
            " return box.width > 0 && (marks.x < -6 || end > room + 12); }).length",
        )
        assert beyond == 0
    assert complaints == []
    assert {url for url in asked if not url.startswith("data:")} == {file.as_uri()}
    assert page.pdf(format="A4", print_background=True).startswith(b"%PDF")
    page.close()
