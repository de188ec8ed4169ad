"""The report and vivace.toml of an answer that the virtual machine gave."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from virtual_laboratory import VirtualLaboratory, optimization

from vivace.core.config import EngineConfig
from vivace.optimize.answer import Answer
from vivace.optimize.report import report_html
from vivace.optimize.written import configuration_text

FACTS = {
    "model": "a <b>bold</b> model",
    "machine": "virtual",
    "workload": "chat",
    "version": "1",
    "quality_bar": "kl",
}


@pytest.fixture(scope="module")
def answer() -> Answer:
    found = optimization(VirtualLaboratory(noise=0.02)).run()
    return replace(found, extra=FACTS)


def configuration(answer: Answer) -> str:
    return configuration_text(answer, answer.pick.candidate.engine_config(EngineConfig(model="m", seed=0), 100))


def test_every_line_has_its_reason_and_the_engine_takes_it(answer: Answer) -> None:
    text = configuration(answer)
    values = tomllib.loads(text)["engine"]
    engine, ran = EngineConfig.from_options(values), answer.pick.candidate.engine_config(EngineConfig(model="m"), 100)
    static = {name: getattr(ran, name) for name in ("static_batch_size", "static_batch_timeout_ms")}
    assert replace(engine, **static) == ran, "what is written is not what was measured"
    for name in ("quantization", "kv_cache_dtype", "max_num_seqs", "max_num_batched_tokens", "block_size"):
        assert values[name] == getattr(answer.pick.candidate, name)
    blocks = re.split(r"\n\n", text.partition("[engine]\n\n")[2])
    assert all(block.startswith(("# ", "[serve]")) for block in blocks if block)
    assert "instead of it" in text, "no alternative was measured for any line"


class Page(HTMLParser):
    """Tags that were opened, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, _: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_report_tells_all_and_runs_nothing(answer: Answer) -> None:
    page = Page()
    page.feed(report_html(answer, configuration(answer)))
    text = " ".join(page.words)
    assert "script" not in page.tags
    assert "b" not in page.tags
    for words in (
        "What each technique brings here",
        "continuous batching",
        "often claimed",
        "vivace.toml",
        "KL, nats",
    ):
        assert words in text
    assert all(rung.name in text for rung in answer.rungs)
    assert all(reason in text for reason in {one.refusal for one in answer.results if one.refusal})
    assert page.tags.count("svg") >= 3
