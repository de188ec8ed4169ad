"""Raw logits of prompts: equal to transformers', and the same for any chunks, batch and prefix cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from vivace.core.errors import RequestError
from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM
from vivace.engine.logits import LogitsReader
from vivace.resources import embedded_model_path

PROMPTS = [list(range(40, 140)), list(range(40, 99)), [7, 8], list(range(40, 120))]
FIRST = [30, 0, 0, 77]


def _rows(llm: LLM) -> list[np.ndarray]:
    """The rows [S, V] of each prompt; a position that comes again must be the same."""
    kept: list[dict[int, np.ndarray]] = [{} for _ in PROMPTS]
    for chunk in llm.logits(PROMPTS, FIRST):
        for offset, row_V in enumerate(chunk.rows_SV):
            kept[chunk.index][chunk.start + offset] = row_V.copy()
    for rows, prompt, first in zip(kept, PROMPTS, FIRST, strict=True):
        assert sorted(rows) == list(range(first, len(prompt) - 1))
    return [np.stack([rows[position] for position in sorted(rows)]) for rows in kept]


def test_rows_equal_those_of_transformers() -> None:
    torch.set_num_threads(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(embedded_model_path(), dtype=torch.float32)
    rows = _rows(LLM(quantization="f32", max_num_seqs=4, max_model_len=256))
    for prompt, first, rows_SV in zip(PROMPTS, FIRST, rows, strict=True):
        with torch.no_grad():
            expected_SV = model(torch.tensor([prompt])).logits[0, first:-1].numpy()
        assert np.abs(rows_SV - expected_SV).max() < 2e-3


@pytest.mark.parametrize(
    "options",
    [
        {"max_num_batched_tokens": 13},
        {"enable_prefix_caching": False},
        {"num_kv_blocks": 9, "max_num_batched_tokens": 20},  # too few for all at once
        {"batching": "static", "static_batch_size": 3},
    ],
    ids=str,
)
def test_rows_do_not_depend_on_the_schedule(options: dict[str, object]) -> None:
    expected = _rows(LLM(max_num_seqs=4, max_model_len=128))
    llm = LLM(max_num_seqs=4, max_model_len=128, **options)
    for _ in range(2):  # the second time with what the prefix cache kept
        for rows_SV, expected_SV in zip(_rows(llm), expected, strict=True):
            assert np.array_equal(rows_SV, expected_SV)


def test_common_beginnings_are_computed_once() -> None:
    llm = LLM(max_num_seqs=4, max_model_len=128)
    list(llm.logits([PROMPTS[0]], [70]))
    assert llm.engine.scheduler.block_manager.num_prefix_hits == 0
    list(llm.logits([PROMPTS[0]], [70]))
    assert llm.engine.scheduler.block_manager.num_prefix_hits == 64  # whole blocks of 16 before row 70


def test_beside_tokens_that_are_generated_and_scored() -> None:
    llm = LLM(max_num_seqs=4, max_model_len=128)
    expected = _rows(llm)[1]
    kept: dict[int, np.ndarray] = {}

    def keep(start: int, rows_SV: np.ndarray) -> None:
        kept.update((start + offset, row_V.copy()) for offset, row_V in enumerate(rows_SV))

    reader = LogitsReader(FIRST[1], keep)
    params = SamplingParams(max_tokens=4, temperature=0.0, prompt_logprobs=0, logprobs=0)
    others = [llm.submit([5, 6, 7], params), llm.submit(PROMPTS[1], params, logits=reader)]
    for _ in llm._steps():
        pass
    scored = llm._outputs.take(others[1])
    llm._outputs.take(others[0])
    assert np.array_equal(np.stack([kept[position] for position in sorted(kept)]), expected)
    assert len(scored.outputs[0].token_ids) == 4
    assert scored.prompt_logprobs is not None
    logprobs = torch.tensor(expected).log_softmax(-1)
    for row, entry in enumerate(scored.prompt_logprobs[1:]):
        assert entry is not None
        assert entry.logprob == pytest.approx(float(logprobs[row, entry.token]), abs=1e-4)


def test_a_reader_that_leaves_early_leaves_nothing_behind() -> None:
    llm = LLM(max_num_seqs=4, max_model_len=128, max_num_batched_tokens=16)
    chunks = llm.logits(PROMPTS, FIRST)
    next(chunks)
    chunks.close()
    assert llm.engine.num_unfinished == 0


def test_a_wrong_prompt_leaves_nothing_behind() -> None:
    llm = LLM(max_num_seqs=4, max_model_len=128)
    with pytest.raises(RequestError):
        list(llm.logits([[3, 4], []], [0, 0]))
    assert llm.engine.num_unfinished == 0
