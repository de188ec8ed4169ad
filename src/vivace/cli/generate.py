"""`vivace generate`: complete one prompt. Text goes to stdout as it comes, everything else to stderr."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vivace.cli.options import ENGINE, SAMPLING, takes
from vivace.cli.prompt import PromptOption, read_prompt
from vivace.cli.screen import PlainAnswer, Rate
from vivace.cli.session import open_llm
from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError
from vivace.core.events import CompletionOutput, RequestOutput, RequestTimings, TokenLogprobs
from vivace.core.sampling import SamplingParams

if TYPE_CHECKING:
    from vivace.engine.llm import LLM


@takes(params=SAMPLING.with_defaults(max_tokens=128), config=ENGINE)
def generate(
    config: EngineConfig,
    params: SamplingParams,
    prompt: PromptOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: text, token ids, log probabilities, timings.")
    ] = False,
) -> None:
    """Complete a prompt."""
    text = read_prompt(prompt, config.model)
    if not as_json and (params.logprobs is not None or params.prompt_logprobs is not None):
        raise ConfigError("log probabilities have no place in plain text: add --json")
    started = time.monotonic()
    llm = open_llm(config)
    load_seconds = time.monotonic() - started
    if as_json:
        output = llm.generate(text, params)[0]
        print(json.dumps(_record(output, load_seconds), ensure_ascii=False))
    elif params.n == 1:
        _stream(llm, text, params)
    else:
        _print_all(llm.generate(text, params)[0].outputs)


def _stream(llm: LLM, prompt: str, params: SamplingParams) -> None:
    """Write each piece when it is there, then one line of figures to stderr."""
    rate = Rate(time.monotonic)
    with PlainAnswer() as answer:
        for delta in llm.stream(prompt, params):
            rate.count(len(delta.token_ids))
            answer.add(delta.text)
    print(rate.summary(), file=sys.stderr)


def _print_all(outputs: list[CompletionOutput]) -> None:
    for output in outputs:
        print(f"--- {output.index + 1} of {len(outputs)} ---", file=sys.stderr, flush=True)
        print(output.text, flush=True)


def _record(output: RequestOutput, load_seconds: float) -> dict[str, Any]:
    """The first continuation's fields stand at the top; `outputs` holds all `n`."""
    outputs = [_completion(one) for one in output.outputs]
    prompt_logprobs = output.prompt_logprobs
    return {
        **{key: value for key, value in outputs[0].items() if key != "index"},
        "prompt": output.prompt,
        "prompt_token_ids": output.prompt_token_ids,
        "prompt_logprobs": prompt_logprobs and [_logprobs(entry) if entry else None for entry in prompt_logprobs],
        "num_cached_tokens": output.num_cached_tokens,
        "outputs": outputs,
        "timings": _timings(output.timings, len(outputs[0]["token_ids"]), load_seconds),
    }


def _completion(output: CompletionOutput) -> dict[str, Any]:
    return {
        "index": output.index,
        "text": output.text,
        "token_ids": output.token_ids,
        "finish_reason": output.finish_reason,
        "stop_reason": output.stop_reason,
        "cumulative_logprob": output.cumulative_logprob,
        "logprobs": None if output.logprobs is None else [_logprobs(entry) for entry in output.logprobs],
    }


def _logprobs(entry: TokenLogprobs) -> dict[str, Any]:
    top = [
        {"token_id": token, "logprob": value} for token, value in zip(entry.top_ids, entry.top_logprobs, strict=True)
    ]
    return {"token_id": entry.token, "logprob": entry.logprob, "rank": entry.rank, "top": top}


def _timings(timings: RequestTimings, num_tokens: int, load_seconds: float) -> dict[str, float | None]:
    """Milliseconds since the request arrived; `tpot_ms` is the mean time of a token after the first."""

    def since_arrival(moment: float | None) -> float | None:
        return None if moment is None else 1e3 * (moment - timings.arrival)

    tpot = None
    if num_tokens > 1 and timings.first_token is not None and timings.finished is not None:
        tpot = 1e3 * (timings.finished - timings.first_token) / (num_tokens - 1)
    return {
        "load_ms": 1e3 * load_seconds,
        "queue_ms": since_arrival(timings.admitted),
        "ttft_ms": since_arrival(timings.first_token),
        "tpot_ms": tpot,
        "e2e_ms": since_arrival(timings.finished),
    }
