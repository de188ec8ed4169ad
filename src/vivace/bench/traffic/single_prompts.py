"""Single prompts of given lengths that share nothing."""

from __future__ import annotations

from vivace.bench.traffic.lengths import LengthRange
from vivace.bench.traffic.request import TrafficRequest
from vivace.bench.traffic.setting import Setting
from vivace.core.errors import ConfigError

LONG_CONTEXT = 16_384  # of a longer context, long prompts and answers use so much


def long_prompts(setting: Setting, num_requests: int) -> list[TrafficRequest]:
    """Prompts that fill half to seven eighths of the context, answers of a sentence: summaries, classification."""
    most = min(setting.max_model_len, LONG_CONTEXT)
    return _requests(
        setting, num_requests, LengthRange(most // 2, most * 7 // 8), LengthRange(8, 64).within(most // 8)
    )


def long_answers(setting: Setting, num_requests: int) -> list[TrafficRequest]:
    """Prompts of a sentence, answers of a quarter to half of the context: stories, programs, reasoning."""
    most = min(setting.max_model_len, LONG_CONTEXT // 4)
    return _requests(setting, num_requests, LengthRange(8, 64).within(most // 8), LengthRange(most // 4, most // 2))


def uniform_prompts(setting: Setting, num_requests: int) -> list[TrafficRequest]:
    """Prompts and answers of uniform length, as synthetic benchmarks have them: for comparison with those."""
    most = setting.max_model_len
    prompt, answer = LengthRange(128, 384).within(most // 2), LengthRange(32, 96).within(most // 4)
    return _requests(setting, num_requests, prompt, answer)


def _requests(setting: Setting, num_requests: int, prompt: LengthRange, answer: LengthRange) -> list[TrafficRequest]:
    requests: list[TrafficRequest] = []
    for index in range(num_requests):
        prompt_len, output_len = prompt.draw(setting.random), answer.draw(setting.random)
        prompt_len = max(1, prompt_len if setting.prompt_len is None else setting.prompt_len)
        output_len = max(1, output_len if setting.output_len is None else setting.output_len)
        if prompt_len + output_len > setting.max_model_len:
            raise ConfigError(
                f"a prompt of {prompt_len} tokens and an answer of {output_len} do not fit a context of "
                f"{setting.max_model_len}: shorten them or raise max_model_len"
            )
        requests.append(TrafficRequest(index, prompt_len, output_len, text=setting.tree.prompt(prompt_len)))
    return requests
