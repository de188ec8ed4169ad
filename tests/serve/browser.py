"""Headless Chromium that watches what a page does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next((path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(path).exists()), None)
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
DEADLINE_S = 60.0
POLL_MS = 30.0


@dataclass
class Watched:
    """A page, and what it should not have done: `complaints` of its console, requests to `strangers`."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    def value(self, name: str) -> float:
        """Of the figure with this id, NaN where there is none."""
        text = self.page.eval_on_selector(f"#{name}", "place => place.value")
        return float(text) if text else float("nan")

    def wait(self, expression: str) -> None:
        """Until JavaScript says true. The page's policy forbids playwright's own way, which evaluates text in it."""
        end = time.monotonic() + DEADLINE_S
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, expression
            self.page.wait_for_timeout(POLL_MS)

    def wait_figure(self, name: str, expected: float) -> None:
        """Until the figure with this id is `expected`."""
        end = time.monotonic() + DEADLINE_S
        while (found := self.value(name)) != pytest.approx(expected):
            assert time.monotonic() < end, f"{name} is {found}, not {expected}"
            self.page.wait_for_timeout(POLL_MS)

    def wait_serving(self) -> None:
        self.wait("document.getElementById('status').dataset.kind === 'fine'")


@contextmanager
def chromium() -> Iterator[Any]:
    """One browser, for one module of tests: beside it, no event loop can run. Skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS), timeout=2e3 * DEADLINE_S)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, base_url: str, **options: Any) -> Iterator[Watched]:
    """The dashboard in a window of its own."""
    context = browser.new_context(**{"viewport": {"width": 1400, "height": 1000}, **options})
    try:
        page = context.new_page()
        page.set_default_timeout(1e3 * DEADLINE_S)
        watched = Watched(page)
        page.on("console", lambda line: watched.complaints.append(line.text) if line.type != "log" else None)
        page.on("pageerror", lambda error: watched.complaints.append(str(error)))
        page.on("request", lambda asked: _note_stranger(watched, asked.url, base_url))
        page.goto(base_url + "/")
        yield watched
    finally:
        context.close()


def _note_stranger(watched: Watched, url: str, base_url: str) -> None:
    if not url.startswith(base_url + "/"):
        watched.strangers.append(url)
