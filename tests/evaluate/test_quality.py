"""Divergence of two models, against torch over the logits that transformers computes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tiny_models import random_llama, scored_by_torch

from vivace.core.errors import ConfigError, ModelFileError
from vivace.engine.llm import LLM
from vivace.evaluate.divergence import compare_rows, paired_rows
from vivace.evaluate.journal import Journal
from vivace.evaluate.perplexity import perplexity
from vivace.evaluate.quality import measure_quality

WINDOW, STRIDE = 96, 40
TEXT = "Once upon a time there was a little girl who loved to read. She had a red hat and a dog named Tim. " * 8


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two random models over one vocabulary, the second a perturbed first."""
    folder = tmp_path_factory.mktemp("models")
    return random_llama(folder / "reference", seed=11), random_llama(folder / "other", seed=11, noise=0.05)


@pytest.fixture(scope="module")
def llms(pair: tuple[Path, Path]) -> tuple[LLM, LLM]:
    reference, other = (LLM(str(path), max_num_seqs=4, max_num_batched_tokens=64) for path in pair)
    return reference, other


def test_figures_equal_those_of_torch(llms: tuple[LLM, LLM], pair: tuple[Path, Path]) -> None:
    reference, other = llms
    ids = other.tokenizer.encode(TEXT)
    expected_logp, targets, context = scored_by_torch(pair[0], ids, WINDOW, STRIDE)
    expected_logq, _, _ = scored_by_torch(pair[1], ids, WINDOW, STRIDE)
    divergence = (expected_logp.exp() * (expected_logp - expected_logq)).sum(-1)
    nats = -expected_logq.gather(1, targets[:, None]).mean()
    quality = measure_quality(other, reference, TEXT, window=WINDOW, stride=STRIDE)
    assert quality.num_tokens == len(ids) - 1 == len(divergence)
    assert float(divergence.mean()) > 1e-3
    assert quality.kl_divergence_mean == pytest.approx(float(divergence.mean()), rel=1e-3)
    assert quality.kl_divergence_p99 == pytest.approx(float(divergence.quantile(0.99)), rel=1e-3)
    agreement = (expected_logp.argmax(-1) == expected_logq.argmax(-1)).double().mean()
    assert quality.top1_agreement == pytest.approx(float(agreement), abs=2 / len(ids))  # ties within float32's noise
    assert quality.perplexity == pytest.approx(math.exp(nats), rel=1e-4)
    reference_nats = -expected_logp.gather(1, targets[:, None]).mean()
    assert quality.reference_perplexity == pytest.approx(math.exp(reference_nats), rel=1e-4)
    difference = (expected_logp - expected_logq).gather(1, targets[:, None])
    assert quality.perplexity_change == pytest.approx(float(difference.mean().expm1()), rel=2e-2)
    error = float(difference.std() / len(difference) ** 0.5 * difference.mean().exp())
    assert quality.perplexity_change_stderr == pytest.approx(error, rel=1e-2)
    assert quality.tokens is not None
    assert np.array_equal(quality.tokens.context_T, context)
    assert quality.tokens.divergence_T == pytest.approx(divergence.numpy(), rel=5e-3, abs=1e-6)


def test_a_model_against_itself(llms: tuple[LLM, LLM], pair: tuple[Path, Path]) -> None:
    again = LLM(str(pair[0]), max_num_seqs=2, max_num_batched_tokens=48)  # cut into other chunks
    quality = measure_quality(again, llms[0], TEXT, window=WINDOW, stride=STRIDE)
    assert quality.kl_divergence_mean == quality.kl_divergence_p99 == 0.0
    assert quality.top1_agreement == 1.0
    assert quality.perplexity == quality.reference_perplexity
    alone = perplexity(again, TEXT, window=WINDOW, stride=STRIDE)
    assert quality.perplexity == pytest.approx(alone.perplexity, rel=1e-6)
    assert quality.bits_per_byte == pytest.approx(alone.bits_per_byte, rel=1e-6)


def test_a_planted_difference_is_found(llms: tuple[LLM, LLM], tmp_path: Path) -> None:
    found = []
    for noise in (0.01, 0.02, 0.04):
        other = LLM(str(random_llama(tmp_path / str(noise), seed=11, noise=noise)), max_num_seqs=2)
        quality = measure_quality(other, llms[0], TEXT)
        assert quality.kl_divergence_mean is not None
        found.append(quality.kl_divergence_mean)
    assert 0 < found[0] < found[1] < found[2]
    assert found[2] / found[0] == pytest.approx(16, rel=0.6)  # small differences count by their square


def test_without_a_reference(llms: tuple[LLM, LLM]) -> None:
    quality = measure_quality(llms[0], None, TEXT, window=WINDOW, stride=STRIDE)
    result = perplexity(llms[0], TEXT, window=WINDOW, stride=STRIDE)
    assert (quality.perplexity, quality.num_windows) == (result.perplexity, result.num_windows)
    assert quality.kl_divergence_mean is quality.top1_agreement is quality.reference_perplexity is None


def test_other_vocabularies_are_compared_by_bytes_alone(llms: tuple[LLM, LLM], tmp_path: Path) -> None:
    other = LLM(str(random_llama(tmp_path / "wide", seed=3, num_words=40)), max_num_seqs=2)
    quality = measure_quality(llms[0], other, TEXT)
    assert quality.kl_divergence_refused is not None
    assert "different vocabularies" in quality.kl_divergence_refused
    assert quality.kl_divergence_mean is quality.top1_agreement is None
    assert quality.reference_bits_per_byte == perplexity(other, TEXT).bits_per_byte


def test_the_shorter_context_decides(llms: tuple[LLM, LLM], pair: tuple[Path, Path]) -> None:
    short = LLM(str(pair[1]), max_num_seqs=2, max_model_len=80)
    assert measure_quality(llms[0], short, TEXT).window == 80
    with pytest.raises(ConfigError, match="80"):
        measure_quality(llms[0], short, TEXT, window=81)


def test_an_interrupted_measurement_goes_on_to_the_same_figures(llms: tuple[LLM, LLM], tmp_path: Path) -> None:
    reference, other = llms
    whole = measure_quality(other, reference, TEXT, window=WINDOW, stride=STRIDE)
    path = tmp_path / "journal"

    def stop_at_two(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Journal(path, {"text": 1}) as journal:
        measure_quality(other, reference, TEXT, window=WINDOW, stride=STRIDE, journal=journal, progress=stop_at_two)
    path.write_bytes(path.read_bytes()[:-7])  # and its last line was cut off
    with Journal(path, {"text": 1}) as journal:
        assert journal.num_finished == 1
        resumed = measure_quality(other, reference, TEXT, window=WINDOW, stride=STRIDE, journal=journal)
    assert resumed == whole


def test_rows_of_a_large_vocabulary_equal_torch() -> None:
    generator = torch.Generator().manual_seed(5)
    p, q = (torch.randn(7, 30_000, generator=generator) * 4 for _ in range(2))
    targets = torch.randint(0, 30_000, (7,), generator=generator)
    scores = compare_rows(p.numpy(), q.numpy(), targets.numpy().astype(np.int32))
    expected = torch.nn.functional.kl_div(
        q.double().log_softmax(-1), p.double().log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    assert scores.divergence_S == pytest.approx(expected.numpy(), rel=1e-6)
    expected_nats = -q.double().log_softmax(-1)[range(7), targets]
    assert scores.nats_S == pytest.approx(expected_nats.numpy(), rel=1e-12)
    assert np.array_equal(scores.agrees_S, (p.argmax(-1) == q.argmax(-1)).numpy())


def test_rows_that_are_not_finite_are_refused() -> None:
    rows = np.zeros((2, 5), np.float32)
    broken = rows.copy()
    broken[1, 3] = np.nan
    with pytest.raises(ModelFileError, match="not finite"):
        compare_rows(rows, broken, np.zeros(2, np.int32))


def test_rows_are_paired_whatever_the_chunks(pair: tuple[Path, Path]) -> None:
    ids = list(range(3, 60))
    whole, cut = (LLM(str(pair[0]), max_num_seqs=2, max_num_batched_tokens=size) for size in (512, 10))
    rows = list(paired_rows(cut, whole, ids, 20))
    assert [pair.start for pair in rows] == [20, 30, 40, 50]
    assert sum(len(pair.candidate_SV) for pair in rows) == len(ids) - 1 - 20
    assert whole.engine.num_unfinished == cut.engine.num_unfinished == 0


def test_stories_with_other_caches(shared: Path) -> None:
    """A real model: the coarser its cache, the further it is from itself."""
    stories = str(shared / "weights" / "stories260K")
    text = (shared / "eval" / "tinystories_sample.txt").read_text()[:3_000]
    oracle = transformers.AutoModelForCausalLM.from_pretrained(stories, dtype=torch.float32).eval()
    reference = LLM(stories, max_num_seqs=2, kv_cache_dtype="f32")
    means = []
    for dtype in ("f32", "int8_per_token_head", "int4_k_per_channel"):
        quality = measure_quality(LLM(stories, max_num_seqs=2, kv_cache_dtype=dtype), reference, text, window=256)
        means.append(quality.kl_divergence_mean)
        assert quality.reference_perplexity is not None
    assert means[0] == 0.0 < means[1] < means[2]
    ids = torch.tensor([reference.tokenizer.encode(text)[:257]])
    with torch.no_grad():
        logits = oracle(ids[:, :256]).logits[0].log_softmax(-1)
    nats = -logits.gather(1, ids[0, 1:, None]).mean()
    first = perplexity(reference, reference.tokenizer.decode(ids[0].tolist()), window=257)
    assert first.nats_per_token == pytest.approx(float(nats), rel=1e-4)
