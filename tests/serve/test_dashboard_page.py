"""The dashboard as somebody uses it, in headless Chromium."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from browser import Watched, chromium, opened
from prometheus_client.parser import text_string_to_metric_families
from served_process import API_KEY, SMALL, ServedProcess, eventually, served


@pytest.fixture(scope="module")
def open_server() -> Iterator[ServedProcess]:
    """Without keys, and with guesses."""
    speculation = ("--speculative-config", '{"method": "ngram", "num_speculative_tokens": 3}')
    with served(*SMALL, *speculation, api_key=None) as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def dashboard(open_server: ServedProcess, browser: Any) -> Iterator[Watched]:
    with opened(browser, open_server.base_url) as watched:
        watched.wait_serving()
        yield watched
        assert watched.complaints == []
        assert watched.strangers == []


def load(server: ServedProcess, num_requests: int) -> None:
    """Repetitive text, so that n-grams find something to guess."""

    def ask(number: int) -> int:
        prompt = "the sea and the stone and the sea and the stone and " * 4 + str(number % 3)
        body = {"prompt": prompt, "max_tokens": 40, "temperature": 0, "ignore_eos": True}
        return httpx.post(f"{server.base_url}/v1/completions", json=body, timeout=120.0).status_code

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(ask, range(num_requests))) == {200}


def metrics(server: ServedProcess) -> dict[str, float]:
    """Once nothing runs any more: the engine's last step may be told after the answers."""
    looks: list[dict[str, float]] = [{}]

    def agree() -> bool:
        answer = httpx.get(f"{server.base_url}/metrics", timeout=60.0)
        families = text_string_to_metric_families(answer.text)
        looks.append(
            {
                one.name.removeprefix("vivace:"): one.value
                for family in families
                for one in family.samples
                if is_of(one)
            }
        )
        return looks[-1] == looks[-2] and looks[-1]["num_requests_running"] == looks[-1]["num_requests_waiting"] == 0

    def is_of(sample: Any) -> bool:
        return sample.name.startswith("vivace:") and not sample.name.startswith(
            ("vivace:http_", "vivace:front_", "vivace:engine_")
        )

    assert eventually(agree)
    return looks[-1]


def mean_ttft(now: dict[str, float], before: dict[str, float]) -> float:
    total, count = (
        now[name] - before[name] for name in (f"time_to_first_token_seconds_{x}" for x in ("sum", "count"))
    )
    return total / count


def test_figures_move_under_load_and_agree_with_the_metrics(open_server: ServedProcess, dashboard: Watched) -> None:
    def agree_in_time() -> bool:
        """Whether all of it took less than the 30 s that some figures look back; they begin where the page does."""
        began = time.monotonic()
        dashboard.page.reload()
        dashboard.wait("document.getElementById('generated').value === '0.00'")
        before = metrics(open_server)
        load(open_server, 24)
        now = metrics(open_server)
        check_totals(dashboard, now)
        recent = [dashboard.value(name) for name in ("ttft", "itl", "acceptance")]
        if time.monotonic() - began > 25.0:
            return False
        names = (f"spec_decode_num_{kind}_tokens_total" for kind in ("accepted", "draft"))
        accepted, guessed = (now[name] - before[name] for name in names)
        assert recent == [pytest.approx(mean_ttft(now, before)), recent[1], pytest.approx(accepted / guessed)]
        assert recent[1] > 0
        return True

    assert eventually(agree_in_time, 200.0)


def check_totals(dashboard: Watched, now: dict[str, float]) -> None:
    dashboard.wait_figure("total-generated", now["generation_tokens_total"])
    dashboard.wait_figure("total-prompt", now["prompt_tokens_total"])
    dashboard.wait("Number(document.getElementById('total-finished').value) >= 24")
    nothing = dict.fromkeys(now, 0.0)
    dashboard.wait_figure("total-ttft", mean_ttft(now, nothing))
    dashboard.wait_figure("total-hits", now["prefix_cache_hits_total"] / now["prefix_cache_queries_total"])
    dashboard.wait_figure("blocks-cached", now["kv_cache_num_cached_blocks"])
    dashboard.wait("document.getElementById('blocks-map').ariaLabel?.includes('2,048 KV blocks: 0 used')")
    dashboard.wait("document.querySelectorAll('#positions li').length === 3")


def test_map_and_chart_are_drawn(open_server: ServedProcess, dashboard: Watched) -> None:
    """The map comes from the engine when somebody looks, so a moment after the counts. The chart goes back 120 s."""
    load(open_server, 3)
    drawn = """(id, wanted) => {
        const canvas = document.getElementById(id), { width, height } = canvas, seen = new Set();
        const copy = Object.assign(document.createElement("canvas"), { width, height });
        const context = copy.getContext("2d", { willReadFrequently: true });
        context.drawImage(canvas, 0, 0);
        const { data } = context.getImageData(0, 0, width, height);
        for (let at = 0; at < data.length; at += 4) if (data[at + 3] === 255) seen.add(data.slice(at, at + 3).join());
        return wanted.every((colour) => seen.has(colour));
    }"""
    dashboard.wait("document.getElementById('blocks-map').width > 300")
    dashboard.wait(f"({drawn})('blocks-map', ['228,233,228', '156,196,245'])")  # free and cached
    dashboard.wait(f"({drawn})('batch-chart', ['47,111,222', '18,145,122'])")  # prompt and decode


def test_the_chat_answers_to_the_keyboard_alone(dashboard: Watched) -> None:
    page = dashboard.page
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "chat-input"
    page.keyboard.type("Tell me about the sea.")
    page.keyboard.press("Enter")
    dashboard.wait("document.getElementById('chat-said').textContent.startsWith('The answer is complete')")
    note = page.inner_text(".message[data-role=assistant] .note")
    assert re.search(r"first token [\d.]+ (ms|s) · .*\d+ tokens?", note)
    assert page.get_attribute(".message[data-role=assistant]", "aria-busy") is None
    page.focus(".message .note button")
    page.keyboard.press("Enter")
    dashboard.wait("document.querySelectorAll('.why li').length > 3")
    assert "finished with" in page.inner_text(".why li >> nth=0")
    page.focus("#chat-input")
    seen = []
    for _ in range(40):
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        page.keyboard.press("Tab")
    assert {"chat-input", "chat-tokens", "chat-temperature", "chat-send", "chat-clear", "chat-log"} <= set(seen)


def test_escape_stops_an_answer(dashboard: Watched) -> None:
    page = dashboard.page
    page.fill("#chat-tokens", "100000")
    page.fill("#chat-temperature", "2")
    page.evaluate("document.getElementById('chat-said').textContent = ''")
    answers = page.locator(".message[data-role=assistant]")
    num_before = answers.count()
    page.route("**/v1/chat/completions", _endlessly)
    page.fill("#chat-input", "And then?")
    page.press("#chat-input", "Enter")
    dashboard.wait("!document.getElementById('chat-stop').disabled")
    page.keyboard.press("Escape")
    dashboard.wait("document.getElementById('chat-said').textContent === 'Stopped.'")
    page.unroute("**/v1/chat/completions")
    assert answers.count() == num_before + 1
    assert page.is_enabled("#chat-send")
    page.click("#chat-clear")
    assert answers.count() == 0


def _endlessly(route: object) -> None:
    """An answer that never comes."""


def test_a_key_is_asked_for_kept_in_the_tab_and_sent(server: ServedProcess, browser: Any) -> None:
    with opened(browser, server.base_url) as watched:
        page = watched.page
        page.wait_for_selector("#key-dialog[open]")
        assert page.evaluate("document.activeElement.id") == "key-input"
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        watched.wait("document.getElementById('key-error').textContent.includes('does not know')")
        page.keyboard.type(API_KEY)
        page.keyboard.press("Enter")
        watched.wait_serving()
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        page.reload()
        watched.wait_serving()
        assert not page.is_visible("#key-dialog")
        assert watched.strangers == []
        assert all("401" in line for line in watched.complaints), watched.complaints


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (400, "light"), (1400, "dark")])
def test_fits_its_window_with_contrast(open_server: ServedProcess, browser: Any, width: int, scheme: str) -> None:
    options = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme, "reduced_motion": "reduce"}
    with opened(browser, open_server.base_url, **options) as watched:
        watched.wait_serving()
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
        assert watched.page.evaluate(CONTRAST) == []
        assert watched.complaints == []


# Texts whose colour is nearer to their ground than 4.5 to 1 (WCAG 2.2, 1.4.3).
CONTRAST = """() => {
    const channels = (text) => text.match(/[\\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, index) => sum + c * [0.2126, 0.7152, 0.0722][index], 0);
    const ground = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const found = channels(getComputedStyle(at).backgroundColor);
            if (found.length < 4 || found[3] > 0) return found;
        }
        return [255, 255, 255];
    };
    const weak = [];
    for (const element of document.querySelectorAll("body *")) {
        const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!hasText || !element.checkVisibility() || element.disabled) continue;
        const values = [luminance(channels(getComputedStyle(element).color)), luminance(ground(element))];
        const ratio = (Math.max(...values) + 0.05) / (Math.min(...values) + 0.05);
        if (ratio < 4.5) weak.push(`${element.tagName} ${element.id} ${ratio.toFixed(2)}`);
    }
    return weak;
}"""


def test_everything_has_a_name_and_a_landmark(dashboard: Watched) -> None:
    page = dashboard.page
    for role in ("banner", "main", "complementary", "log"):
        assert page.get_by_role(role).count() == 1, role
    assert page.get_by_role("heading", level=1).count() == 1
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, meter, [role=img], section, aside")]
            .filter((element) => !(element.getAttribute("aria-label") || element.getAttribute("aria-labelledby")
                || element.textContent.trim() || element.labels?.length)).map((element) => element.outerHTML)"""
    )
    assert unnamed == []
    live = page.evaluate("document.querySelectorAll('[aria-live], [role=status], [role=alert], [role=log]').length")
    assert live <= 4
