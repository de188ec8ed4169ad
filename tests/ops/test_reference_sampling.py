"""What the sampler may draw, by hand-made distributions and by frequency."""

import numpy as np
import pytest
import torch

from vivace.ops.backend import SampleInputs
from vivace.ops.random import uniforms
from vivace.ops.reference_sampling import sample, top_logprobs

PROBABILITIES = np.array([0.4, 0.3, 0.2, 0.06, 0.04])
LOGITS = np.log(PROBABILITIES).astype(np.float32) + 3


def inputs(
    num_rows: int,
    uniform: np.ndarray | float = 0.0,
    history: dict[int, int] | None = None,
    bias: dict[int, float] | None = None,
    **values: float,
) -> SampleInputs:
    """The same parameters for each row; neutral unless given."""
    history, bias = history or {}, bias or {}

    def column(name: str, neutral: float, dtype: type) -> np.ndarray:
        return np.full(num_rows, values.get(name, neutral), dtype)

    return SampleInputs(
        temperature_S=column("temperature", 1, np.float32),
        top_k_S=column("top_k", 0, np.int32),
        top_p_S=column("top_p", 1, np.float32),
        min_p_S=column("min_p", 0, np.float32),
        repetition_S=column("repetition", 1, np.float32),
        presence_S=column("presence", 0, np.float32),
        frequency_S=column("frequency", 0, np.float32),
        uniform_S=np.broadcast_to(np.asarray(uniform, np.float32), (num_rows,)),
        history_starts_S1=np.arange(num_rows + 1, dtype=np.int32) * len(history),
        history_tokens=np.array(list(history) * num_rows, np.int32),
        history_counts=np.array(list(history.values()) * num_rows, np.int32),
        bias_starts_S1=np.arange(num_rows + 1, dtype=np.int32) * len(bias),
        bias_tokens=np.array(list(bias) * num_rows, np.int32),
        bias_values=np.array(list(bias.values()) * num_rows, np.float32),
    )


def frequencies(num_draws: int = 4000, **parameters: float) -> np.ndarray:
    uniform = uniforms(17, 0, np.arange(num_draws))
    tokens = sample(np.tile(LOGITS, (num_draws, 1)), inputs(num_draws, uniform, **parameters))
    return np.bincount(tokens, minlength=5) / num_draws


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, PROBABILITIES),
        ({"temperature": 0.5}, PROBABILITIES**2),
        ({"top_k": 2}, PROBABILITIES * [1, 1, 0, 0, 0]),
        ({"top_k": 99}, PROBABILITIES),
        ({"top_p": 0.75}, PROBABILITIES * [1, 1, 1, 0, 0]),
        ({"top_p": 0.1}, [1, 0, 0, 0, 0]),
        ({"min_p": 0.4}, PROBABILITIES * [1, 1, 1, 0, 0]),
        ({"top_k": 3, "top_p": 0.75}, PROBABILITIES * [1, 1, 0, 0, 0]),  # 0.7 of 0.9 left: enough
        ({"min_p": 0.4, "top_p": 0.75}, PROBABILITIES * [1, 1, 0, 0, 0]),
        ({"bias": {4: 2.0}}, PROBABILITIES * [1, 1, 1, 1, np.exp(2)]),
        ({"bias": {0: -np.inf}}, PROBABILITIES * [0, 1, 1, 1, 1]),
        ({"history": {0: 2, 1: 0}, "presence": 0.5}, PROBABILITIES * [np.exp(-0.5), 1, 1, 1, 1]),
        ({"history": {0: 2, 1: 0}, "frequency": 0.5}, PROBABILITIES * [np.exp(-1), 1, 1, 1, 1]),
    ],
)
def test_frequencies(parameters: dict, expected: np.ndarray) -> None:
    expected = np.asarray(expected) / np.sum(expected)
    actual = frequencies(**parameters)
    assert np.abs(actual - expected).max() < 0.03
    assert (actual[expected == 0] == 0).all()


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits() -> None:
    logits = np.array([[2.0, -1.0, 0.5, -3.0]], np.float32)
    row = inputs(1, temperature=0, history={0: 0, 1: 5}, repetition=5)
    assert sample(logits, row).tolist() == [2]  # 2 / 5 = 0.4 < 0.5
    row = inputs(1, temperature=0, history={0: 0, 1: 5, 2: 1}, repetition=5)
    assert sample(np.minimum(logits, -0.5), row).tolist() == [0]  # -2.5, -5, -2.5: the lowest id


def test_greedy_takes_the_lowest_id_on_ties_and_leaves_logits_alone() -> None:
    logits = np.array([[1, 4, 4, 0], [9, 9, 9, 9]], np.float32)
    before = logits.copy()
    assert sample(logits, inputs(2, temperature=0, bias={0: -1.0})).tolist() == [1, 1]
    assert np.array_equal(logits, before)


def test_ties_at_the_border_of_top_k_go_to_low_ids() -> None:
    logits = np.zeros((2, 6), np.float32)
    assert sample(logits, inputs(2, np.array([0.0, 0.999]), top_k=3)).tolist() == [0, 2]


def test_uniform_zero_takes_the_first_token_with_weight() -> None:
    assert sample(LOGITS[None], inputs(1, 0.0, bias={0: -np.inf})).tolist() == [1]


def test_uniform_just_below_one_stays_inside_the_vocabulary() -> None:
    assert sample(LOGITS[None], inputs(1, np.float32(1 - 2**-24), top_k=3)).tolist() == [2]


def test_non_finite_logits_are_never_chosen() -> None:
    logits = np.array([[np.nan, np.inf, 1, -np.inf], [np.nan] * 4, [-np.inf] * 4], np.float32)
    for temperature in (0.0, 1.0):
        assert sample(logits, inputs(3, 0.5, temperature=temperature)).tolist() == [2, -1, -1]


def test_masks_ban_what_their_bits_do_not_allow() -> None:
    row = inputs(3, 0.999, temperature=1)
    row.mask_index_S = np.array([1, -1, 0], np.int32)
    row.mask_RW = np.array([[0b00001], [0b00110]], np.uint32)
    assert sample(np.tile(LOGITS, (3, 1)), row).tolist() == [2, 4, 0]
    row.mask_RW[1] = 0
    assert sample(np.tile(LOGITS, (3, 1)), row).tolist() == [-1, 4, 0]


def test_everything_banned_gives_no_token() -> None:
    assert sample(LOGITS[None], inputs(1, bias=dict.fromkeys(range(5), -np.inf))).tolist() == [-1]


def test_top_logprobs_against_torch() -> None:
    logits = np.random.default_rng(3).standard_normal((4, 50), dtype=np.float32) * 5
    tokens = np.array([7, 0, 49, -1], np.int32)
    result = top_logprobs(logits, tokens, 5)
    expected = torch.log_softmax(torch.asarray(logits), dim=-1)
    values, ids = expected.topk(5)
    np.testing.assert_allclose(result.top_logprobs_SK, values, rtol=1e-5)
    assert result.top_ids_SK.tolist() == ids.tolist()
    np.testing.assert_allclose(result.logprob_S[:3], expected[[0, 1, 2], [7, 0, 49]], rtol=1e-5)
    for row in range(3):
        assert result.rank_S[row] == 1 + int((expected[row] > expected[row, tokens[row]]).sum())
    assert result.logprob_S[3] == -np.inf
    assert result.rank_S[3] == 0


def test_ranks_of_ties_go_to_low_ids() -> None:
    result = top_logprobs(np.array([[1, 2, 2, 0]], np.float32), np.array([2], np.int32), 0)
    assert result.rank_S.tolist() == [2]
    assert result.top_ids_SK.shape == (1, 0)
