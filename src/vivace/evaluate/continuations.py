"""How likely a model finds given continuations of given contexts.

Shape letters: S rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np

from vivace.core.errors import ConfigError
from vivace.engine.llm import LLM
from vivace.engine.tokenizer import Tokenizer
from vivace.ops.backend import Float32Array


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """Natural log probability of the whole continuation, and whether greedy decoding would have written it."""

    logprob: float
    is_greedy: bool


@dataclass(frozen=True, slots=True)
class TokenizedContinuation:
    """`token_ids` [: first] are context."""

    token_ids: list[int]
    first: int


def tokenize_continuation(tokenizer: Tokenizer, context: str, continuation: str) -> TokenizedContinuation:
    """Cut as lm-evaluation-harness does: both are tokenised together, blanks between them belong to the continuation.

    The text begins with the model's BOS where its tokenizer adds one; an empty context is a BOS, or else an EOS.
    """
    blanks = len(context) - len(context.rstrip())
    if blanks:
        context, continuation = context[:-blanks], context[-blanks:] + continuation
    whole = tokenizer.encode(context + continuation, add_special=False)
    num_context = min(len(tokenizer.encode(context, add_special=False)), len(whole) - 1)
    start = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    if num_context < 1 and not start:
        start = [_neutral_id(tokenizer)]
    return TokenizedContinuation([*start, *whole], len(start) + num_context)


def _neutral_id(tokenizer: Tokenizer) -> int:
    if tokenizer.bos_id is not None:
        return tokenizer.bos_id
    if not tokenizer.eos_ids:
        raise ConfigError("a task has an empty context, and the model has neither BOS nor EOS to begin with")
    return min(tokenizer.eos_ids)


def score_continuations(llm: LLM, texts: Items[TokenizedContinuation]) -> list[ContinuationScore]:
    """Score each one, all in one batch; common contexts are computed once (prefix cache).

    What exceeds the context window loses its beginning, as in lm-evaluation-harness.
    """
    limit = llm.engine.config.max_model_len
    cut = [_fitted(text, limit) for text in texts]
    sums, greedy = np.zeros(len(cut)), np.ones(len(cut), np.bool_)
    for chunk in llm.logits([text.token_ids for text in cut], [text.first - 1 for text in cut]):
        targets = cut[chunk.index].token_ids[chunk.start + 1 : chunk.start + 1 + len(chunk.rows_SV)]
        logprob, is_greedy = _score_rows(chunk.rows_SV, np.array(targets, np.int32))
        sums[chunk.index] += logprob
        greedy[chunk.index] &= is_greedy
    return [ContinuationScore(float(total), bool(flag)) for total, flag in zip(sums, greedy, strict=True)]


def _fitted(text: TokenizedContinuation, limit: int) -> TokenizedContinuation:
    dropped = max(0, len(text.token_ids) - limit)
    return TokenizedContinuation(text.token_ids[dropped:], max(1, text.first - dropped))


def _score_rows(rows_SV: Float32Array, targets_S: np.ndarray) -> tuple[float, bool]:
    values_SV = rows_SV.astype(np.float64)
    values_SV -= values_SV.max(axis=1, keepdims=True)
    logprob_S = values_SV[np.arange(len(targets_S)), targets_S] - np.log(np.exp(values_SV).sum(axis=1))
    return float(logprob_S.sum()), bool((rows_SV.argmax(axis=1) == targets_S).all())
