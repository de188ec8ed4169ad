"""The facts of an explanation in words: one sentence for each thing that took time, or did not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vivace.serve.wire.explanation import (
    DecodeFacts,
    EngineQueueFacts,
    PrefillFacts,
    PrefixFacts,
    PromptExplanation,
    QueueFacts,
    SpeculationFacts,
)

SHORT_MS = 1.0  # a wait that is not worth a reason
DELAYS = {
    "rows": "every row of the engine was taken",
    "blocks": "the KV blocks were taken",
    "prompts": "other prompts lay ready to be computed",
}
OBSTACLES = {
    "rows": "every row was taken",
    "tokens": "the step had no tokens left",
    "blocks": "the KV blocks were taken",
    "batch": "a static batch was gathered, or ran",
}
MISSES = {
    "off": "The prefix cache is off, so all {prompt} prompt tokens were computed.",
    "unused": "All {prompt} prompt tokens were computed: log probabilities or a mean need every position.",
    "short": "The prompt of {prompt} tokens has no whole block of {size} before its last: nothing can be cached.",
    "complete": "The prefix cache held every whole block before the last token: {cached} of {prompt} prompt tokens.",
    "different": "{held} Block {block} was not: the nearest cached prompt goes on with another token at position "
    "{position}.",
    "evicted": "{held} Block {block} had been there, and was overwritten when others needed room.",
    "salt": "The prefix cache held nothing: nothing was computed yet for this key and cache_salt.",
    "never": "{held} Block {block} was not: no prompt that was computed goes on this way.",
}


def in_words(facts: PromptExplanation, total_ms: float) -> list[str]:
    """Sentences in the order of what happened; the first is the whole."""
    if facts.refusal is not None:
        ahead = f", {_many(facts.queue.num_ahead, 'request')} waited" if facts.queue.num_ahead else ""
        return [f"It was refused after {_time(total_ms)}{ahead}: {facts.refusal}."]
    sentences = [
        _whole(facts, total_ms),
        _restarts(facts.num_restarts),
        _door(facts.queue),
        _engine_queue(facts.engine_queue),
    ]
    sentences += [_prefix(facts.prefix), _prefill(facts.prefill), *_decode(facts.decode), _guesses(facts.speculation)]
    return [sentence for sentence in sentences if sentence]


def of_all(prompts: Sequence[PromptExplanation], num_prompts: int) -> list[str]:
    """Of a request with several prompts, which are explained one by one."""
    slowest = max(prompts, key=lambda one: one.queue.wait_ms or 0.0)
    untold = f" The first {len(prompts)} are told of." if num_prompts > len(prompts) else ""
    return [
        f"{num_prompts} prompts, generated beside each other; `prompts` explains each.{untold}",
        f"Prompt {slowest.index} waited longest for its turn: {_time(slowest.queue.wait_ms or 0.0)}.",
    ]


def _whole(facts: PromptExplanation, total_ms: float) -> str:
    tokens = _many(facts.decode.num_output_tokens, "token")
    match facts.status:
        case "waiting":
            return f"It has waited {_time(total_ms)} for its turn."
        case "running":
            return f"It has run for {_time(total_ms)} and brought {tokens}."
    ends = {"abort": "its client left or its time was over", "error": "it failed"}
    end = ends.get(facts.finish_reason or "", f"finished with {facts.finish_reason!r}")
    return f"It took {_time(total_ms)} and brought {tokens}; {end}."


def _restarts(number: int) -> str:
    if not number:
        return ""
    return (
        f"The engine died {_times(number)} meanwhile; the request was replayed in the next one and went on with the "
        "same tokens. What is said below of the prefix cache, chunks, steps and guesses is of the last engine alone."
    )


def _door(facts: QueueFacts) -> str:
    if facts.wait_ms is None:
        return ""
    if facts.wait_ms < SHORT_MS:
        return f"It had its turn at once ({_time(facts.wait_ms)})."
    ahead = f" behind {_many(facts.num_ahead, 'request')}" if facts.num_ahead else ""
    reasons = _reasons({name: _time(ms) for name, ms in facts.delays_ms.items() if ms >= SHORT_MS}, DELAYS)
    why = f": {reasons}" if reasons else ", for its turn among those of all keys" if facts.num_ahead else ""
    return f"It waited {_time(facts.wait_ms)} at the door{ahead}{why}."


def _engine_queue(facts: EngineQueueFacts) -> str:
    if facts.wait_ms is None or (facts.wait_ms < SHORT_MS and not facts.obstacles):
        return ""
    reasons = [_reasons({name: _many(number, "step") for name, number in facts.obstacles.items()}, OBSTACLES)]
    if facts.compile_ms is not None:
        reasons.append(f"{_time(facts.compile_ms)} to compile its constraint")
    if facts.num_prefix_waits:
        reasons.append("another request was computing a prefix that both have")
    why = "; ".join(filter(None, reasons))
    return f"It waited {_time(facts.wait_ms)} in the engine{': ' + why if why else ', for a step to end'}."


def _prefix(facts: PrefixFacts) -> str:
    if facts.first_miss is None or facts.num_blocks_hit is None:
        return ""
    held = "The prefix cache held nothing of the prompt."
    if facts.num_blocks_hit:
        tokens = f"{facts.num_cached_tokens} of {facts.num_prompt_tokens} prompt tokens"
        held = f"The prefix cache held {tokens} ({_many(facts.num_blocks_hit, 'block')})."
    return MISSES[facts.first_miss].format(
        held=held,
        prompt=facts.num_prompt_tokens,
        cached=facts.num_cached_tokens,
        size=facts.block_size,
        block=facts.num_blocks_hit,
        position=facts.first_miss_position,
    )


def _prefill(facts: PrefillFacts) -> str:
    if not facts.num_chunks:
        return ""
    sizes = " + ".join(str(chunk.num_tokens) for chunk in facts.chunks)
    rest = " + …" if facts.num_chunks > len(facts.chunks) else ""
    took = f" in {_time(facts.ms)}" if facts.ms is not None else ""
    most = max(chunk.num_step_rows for chunk in facts.chunks)
    is_alone = most == max(chunk.num_tokens for chunk in facts.chunks)
    beside = "" if is_alone else f", beside others in steps of up to {most} rows"
    return f"Prompt tokens computed: {sizes}{rest}, {_many(facts.num_chunks, 'chunk')}{took}{beside}."


def _decode(facts: DecodeFacts) -> list[str]:
    sentences = []
    if facts.num_preemptions:
        lost = sum(one.num_lost_tokens for one in facts.preemptions)
        own = any(one.for_itself for one in facts.preemptions)
        why = "the pool was full and it came last" if own else "one before it needed them"
        sentences.append(f"It lost its KV blocks {_times(facts.num_preemptions)}, {lost} tokens in all: {why}.")
    if facts.ms is not None and facts.num_output_tokens > 1:
        per_token = _time(facts.ms / (facts.num_output_tokens - 1))
        rows = f", with {facts.mean_rows:.1f} rows of all requests in a step" if facts.mean_rows is not None else ""
        sentences.append(f"{_time(facts.ms)} from the first token on, {per_token} a token{rows}.")
    return sentences


def _guesses(facts: SpeculationFacts) -> str:
    if not facts.choices and not facts.num_guessed:
        return ""
    kinds = ", ".join(f"{kind} in {number}" for kind, number in facts.choices.items())
    chose = f" The rule chose {kinds} steps." if kinds else ""
    if not facts.num_guessed:
        return f"No token was guessed.{chose}"
    return f"{facts.num_accepted} of {_many(facts.num_guessed, 'guessed token')} stood.{chose}"


def _reasons(amounts: Mapping[str, str], words: Mapping[str, str]) -> str:
    return ", ".join(f"{amount} because {words[name]}" for name, amount in amounts.items())


def _time(ms: float) -> str:
    return f"{ms / 1e3:.2f} s" if ms >= 1e3 else f"{ms:.0f} ms" if ms >= 10 else f"{ms:.2f} ms"


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
