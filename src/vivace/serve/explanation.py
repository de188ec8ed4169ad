"""A request's story as the facts that the API answers with."""

from __future__ import annotations

from dataclasses import replace

from vivace.core.account import RequestAccount
from vivace.serve.explanation_words import in_words, of_all
from vivace.serve.stories import PromptStory, RequestStory
from vivace.serve.wire.explanation import (
    ChunkFacts,
    DecodeFacts,
    EngineQueueFacts,
    PreemptionFacts,
    PrefillFacts,
    PrefixFacts,
    PromptExplanation,
    QueueFacts,
    RequestExplanation,
    RequestStatus,
    SpeculationFacts,
)

ORDER: tuple[RequestStatus, ...] = (
    "running",
    "waiting",
    "refused",
    "ended",
    "finished",
)  # of several prompts, the first counts


def explain(story: RequestStory, block_size: int, now: float) -> RequestExplanation:
    """`now` is on the monotonic clock: what has not ended took until then."""
    prompts = [_prompt(index, one, block_size, now) for index, one in enumerate(story.prompts)]
    status = min((one.status for one in prompts), key=ORDER.index)
    summary = prompts[0].summary if story.num_prompts == 1 else of_all(prompts, story.num_prompts)
    return RequestExplanation(story.request_id, story.created, status, story.num_prompts, summary, prompts)


def _prompt(index: int, story: PromptStory, block_size: int, now: float) -> PromptExplanation:
    account = story.account or _unknown(story)
    if story.num_restarts and story.admitted is not None:  # by the first engine that brought something of it
        account = replace(account, admitted=story.admitted, first_token=story.first_token)
    explanation = PromptExplanation(
        index=index,
        status=story.status,
        finish_reason=story.finish_reason,
        summary=[],
        queue=_queue(story, now),
        engine_queue=_engine_queue(story, account),
        prefix=_prefix(story, account, block_size),
        prefill=_prefill(story, account),
        decode=_decode(story, account, now),
        speculation=SpeculationFacts(account.num_guessed, account.num_accepted, account.choices),
        refusal=story.refusal,
        num_restarts=story.num_restarts,
    )
    end = story.ended if story.ended is not None else now
    explanation.summary = in_words(explanation, 1e3 * (end - story.arrived))
    return explanation


def _unknown(story: PromptStory) -> RequestAccount:
    """Where the engine has not told anything."""
    return RequestAccount(
        story.submitted or story.arrived,
        story.num_prompt_tokens,
        story.num_output_tokens,
        story.num_cached_tokens,
        admitted=story.admitted,
        first_token=story.first_token,
    )


def _queue(story: PromptStory, now: float) -> QueueFacts:
    end = story.called if story.called is not None else story.ended if story.ended is not None else now
    return QueueFacts(
        prepare_ms=_ms(story.arrived, story.prepared),
        wait_ms=_ms(story.prepared, end),
        predicted_wait_ms=1e3 * story.predicted_wait_s,
        num_ahead=story.num_ahead,
        delays_ms={name: _rounded(1e3 * seconds) for name, seconds in story.delays.items()},
    )


def _engine_queue(story: PromptStory, account: RequestAccount) -> EngineQueueFacts:
    return EngineQueueFacts(
        wait_ms=_ms(story.submitted, account.admitted),
        compile_ms=_ms(account.arrival, account.compiled),
        num_prefix_waits=account.num_prefix_waits,
        obstacles=account.obstacles,
    )


def _prefix(story: PromptStory, account: RequestAccount, block_size: int) -> PrefixFacts:
    miss = account.miss
    return PrefixFacts(
        num_prompt_tokens=story.num_prompt_tokens,
        num_cached_tokens=account.num_cached if miss is None else miss.block * block_size,
        block_size=block_size,
        num_blocks_hit=None if miss is None else miss.block,
        first_miss=None if miss is None else miss.reason,
        first_miss_position=None if miss is None else miss.position,
    )


def _prefill(story: PromptStory, account: RequestAccount) -> PrefillFacts:
    chunks = [
        ChunkFacts(chunk.start, chunk.num_new, chunk.num_rows, _rounded(1e3 * (chunk.time_s - story.arrived)))
        for chunk in account.chunks
    ]
    return PrefillFacts(_ms(account.admitted, account.first_token), account.num_chunks, chunks)


def _decode(story: PromptStory, account: RequestAccount, now: float) -> DecodeFacts:
    end = account.finished if account.finished is not None else story.ended if story.ended is not None else now
    return DecodeFacts(
        ms=_ms(account.first_token, end),
        num_output_tokens=account.num_output if story.ended is None else story.num_output_tokens,
        num_steps=account.num_steps,
        mean_rows=_rounded(account.num_rows / account.num_steps) if account.num_steps else None,
        num_preemptions=account.num_preemptions,
        preemptions=[PreemptionFacts(one.num_output, one.num_lost, one.for_itself) for one in account.preemptions],
    )


def _ms(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else _rounded(1e3 * max(end - start, 0.0))


def _rounded(value: float) -> float:
    return round(value, 3)
