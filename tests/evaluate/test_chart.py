"""Charts are well-formed, self-contained and show what was measured."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from vivace.evaluate.chart import chart_html, chart_svg
from vivace.evaluate.evaluation import Evaluation, ModelFacts
from vivace.evaluate.quality import Quality, TokenDivergences
from vivace.evaluate.tasks import Metric, TaskResult

SVG = "{http://www.w3.org/2000/svg}"
FACTS = ModelFacts('a <model> & "more"', "q4_0", 1000, "bf16", 64)
TASK = TaskResult("arc_easy", "choices", 40, 0, {"acc": Metric(0.4, 0.05), "acc_norm": Metric(0.5, 0.05)})
LAST_WORDS = TaskResult("lambada", "lambada", 1, 0, {"acc": Metric(1.0, None), "perplexity": Metric(9.0, None)})


def _evaluation(divergence_T: np.ndarray) -> Evaluation:
    agrees_T = np.arange(len(divergence_T)) % 4 > 0
    tokens = TokenDivergences(divergence_T.astype(np.float32), agrees_T, np.arange(len(divergence_T), dtype=np.int32))
    quality = Quality(
        *(10.0, 1.0, 2.3, len(divergence_T), 900, 1, 512, 256),
        kl_divergence_mean=float(divergence_T.mean()),
        kl_divergence_p99=float(np.quantile(divergence_T, 0.99)),
        top1_agreement=0.75,
        reference_perplexity=9.5,
        reference_bits_per_byte=0.98,
        tokens=tokens,
    )
    return Evaluation(FACTS, FACTS, quality, [TASK, LAST_WORDS], [TASK, LAST_WORDS])


def _titles(document: str) -> list[str]:
    root = ElementTree.fromstring(document)
    for mark in root.iter():
        for name in ("x", "y", "cx", "cy", "x1", "x2", "y1", "y2"):
            if (place := mark.get(name)) is not None:
                assert 0 <= float(place) <= 1200
    return [mark.text or "" for mark in root.iter(f"{SVG}title")]


def test_bars_hold_every_token() -> None:
    draws = np.random.default_rng(3).lognormal(-5, 2, 4000)
    titles = _titles(chart_svg(_evaluation(draws)))
    shares = [float(title.partition(": ")[2].partition("%")[0]) for title in titles if title.endswith("of tokens")]
    assert sum(shares) == pytest.approx(100, abs=0.5)  # each is rounded
    assert f"Evaluation of {FACTS.model}" in titles
    assert "40.0 ± 5.0%" in titles
    agreement = [title for title in titles if title.endswith("of 500 tokens")]
    assert agreement[0] == "0 to 499: 75.00% of 500 tokens"
    assert len(agreement) == 8


@pytest.mark.parametrize("value", [0.0, 1e-12, 5.0])
def test_one_token_and_equal_ones_can_be_drawn(value: float) -> None:
    _titles(chart_svg(_evaluation(np.full(1, value))))
    _titles(chart_svg(_evaluation(np.full(300, value))))


def test_without_a_reference_or_a_text() -> None:
    quality = Quality(10.0, 1.0, 2.3, 5, 9, 1, 512, 256)
    assert "arc_easy" in chart_svg(Evaluation(FACTS, None, None, [TASK]))
    _titles(chart_svg(Evaluation(FACTS, None, quality)))


def test_a_page_needs_nothing_else() -> None:
    page = chart_html(_evaluation(np.geomspace(1e-6, 1, 50)))
    assert page.startswith("<!DOCTYPE html>")
    assert "<script" not in page
    assert "href" not in page.replace('<link rel="icon" href="data:,">', "")
    assert "url(" not in page
    assert "a &lt;model&gt; &amp;" in page
