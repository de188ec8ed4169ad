"""What `LLM` promises to a user, on the embedded model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from vivace.backends.cpu.backend import CpuBackend
from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError, ContextLengthError, RequestError
from vivace.core.sampling import SamplingParams
from vivace.engine import loader
from vivace.engine.backend import thread_choices
from vivace.engine.llm import LLM
from vivace.resources import embedded_model_path

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(max_num_seqs=16, max_model_len=256)


def test_outputs_come_in_the_order_of_the_prompts(llm: LLM) -> None:
    prompts = ["The old man", "In the morning", "She said"]
    outputs = llm.generate(prompts, GREEDY)
    assert [output.prompt for output in outputs] == prompts
    assert [len(output.outputs[0].token_ids) for output in outputs] == [12, 12, 12]
    assert all(output.finished and output.outputs[0].finish_reason == "length" for output in outputs)


def test_text_and_token_ids_are_the_same_prompt(llm: LLM) -> None:
    ids = llm.tokenizer.encode("In the morning")
    by_text, by_ids = llm.generate(["In the morning", ids], GREEDY)
    assert by_text.outputs[0].token_ids == by_ids.outputs[0].token_ids
    assert by_ids.prompt is None
    assert by_ids.prompt_token_ids == ids


def test_text_is_the_decoded_tokens(llm: LLM) -> None:
    output = llm.generate("Once upon a time", GREEDY)[0].outputs[0]
    assert output.text == llm.tokenizer.decode(
        [*llm.tokenizer.encode("Once upon a time"), *output.token_ids]
    ).removeprefix("Once upon a time")


def test_stop_string_cuts_the_text_exactly(llm: LLM) -> None:
    text = llm.generate("Once upon a time", GREEDY)[0].outputs[0].text
    stop = text[5:9]
    params = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, stop=(stop,))
    output = llm.generate("Once upon a time", params)[0].outputs[0]
    assert output.text == text[: text.index(stop)]
    assert (output.finish_reason, output.stop_reason) == ("stop", stop)
    kept = SamplingParams(
        temperature=0.0, max_tokens=12, ignore_eos=True, stop=(stop,), include_stop_str_in_output=True
    )
    assert llm.generate("Once upon a time", kept)[0].outputs[0].text == text[: text.index(stop)] + stop


def test_stop_string_in_the_last_token_is_the_reason(llm: LLM) -> None:
    text = llm.generate("Once upon a time", GREEDY)[0].outputs[0].text
    params = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, stop=(text[-2:],))
    first = llm.generate("Once upon a time", params)[0].outputs[0]
    assert text[: text.index(text[-2:])] == first.text
    assert first.finish_reason == "stop"
    exact = SamplingParams(temperature=0.0, max_tokens=len(first.token_ids), ignore_eos=True, stop=(text[-2:],))
    assert llm.generate("Once upon a time", exact)[0].outputs[0] == first


def test_stop_strings_wait_for_min_tokens(llm: LLM) -> None:
    text = llm.generate("Once upon a time", GREEDY)[0].outputs[0].text
    params = SamplingParams(temperature=0.0, max_tokens=12, min_tokens=12, ignore_eos=True, stop=(text[2:4],))
    output = llm.generate("Once upon a time", params)[0].outputs[0]
    assert (output.text, output.finish_reason) == (text, "length")


def test_stop_token_ends_the_sequence_but_not_before_min_tokens(llm: LLM) -> None:
    tokens = llm.generate("Once upon a time", GREEDY)[0].outputs[0].token_ids
    stop_token = tokens[3]
    first = tokens.index(stop_token)
    params = SamplingParams(temperature=0.0, max_tokens=12, stop_token_ids=(stop_token,), ignore_eos=True)
    output = llm.generate("Once upon a time", params)[0].outputs[0]
    assert output.token_ids == tokens[: first + 1]
    assert (output.finish_reason, output.stop_reason) == ("stop", stop_token)
    later = SamplingParams(
        temperature=0.0, max_tokens=12, min_tokens=6, stop_token_ids=(stop_token,), ignore_eos=True
    )
    long_enough = llm.generate("Once upon a time", later)[0].outputs[0].token_ids
    assert len(long_enough) >= 6
    assert stop_token not in long_enough[:6]


def test_logit_bias_forces_a_token(llm: LLM) -> None:
    params = SamplingParams(temperature=1.0, seed=1, max_tokens=4, ignore_eos=True, logit_bias={77: 100.0})
    assert llm.generate("The", params)[0].outputs[0].token_ids == [77] * 4


def test_seed_gives_the_same_text_whatever_else_runs(llm: LLM) -> None:
    params = SamplingParams(temperature=1.0, seed=42, max_tokens=16, ignore_eos=True)
    first = llm.generate("The sea", params)[0].outputs[0].token_ids
    crowd = [SamplingParams(temperature=1.0, max_tokens=20, ignore_eos=True)] * 7
    again = llm.generate(["The sea", *[f"Number {i}" for i in range(7)]], [params, *crowd])[0].outputs[0].token_ids
    other = llm.generate("The sea", SamplingParams(temperature=1.0, seed=43, max_tokens=16, ignore_eos=True))
    assert first == again
    assert first != other[0].outputs[0].token_ids


def test_n_continuations_differ_and_repeat(llm: LLM) -> None:
    params = SamplingParams(n=3, temperature=1.0, seed=5, max_tokens=10, ignore_eos=True)
    outputs = llm.generate("The sea", params)[0].outputs
    assert [output.index for output in outputs] == [0, 1, 2]
    assert len({tuple(output.token_ids) for output in outputs}) == 3
    assert outputs == llm.generate("The sea", params)[0].outputs
    assert llm.generate("The sea", SamplingParams(n=2, max_tokens=0))[0].outputs[1].finish_reason == "length"


def test_progress_counts_every_answer(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    params = SamplingParams(n=3, temperature=1.0, seed=5, max_tokens=4, ignore_eos=True)
    llm.generate(["The sea", "The land"], params, use_progress=True)
    assert "6 of 6 answers" in capsys.readouterr().err


def test_scoring_a_prompt_without_output(llm: LLM) -> None:
    params = SamplingParams(max_tokens=0, prompt_logprobs=2)
    output = llm.generate("The old man and the sea", params)[0]
    assert output.outputs[0].token_ids == []
    assert output.prompt_logprobs is not None
    assert output.prompt_logprobs[0] is None
    scored = output.prompt_logprobs[1:]
    assert [entry.token for entry in scored if entry] == output.prompt_token_ids[1:]
    assert all(entry is not None and entry.logprob <= 0 and len(entry.top_ids) == 2 for entry in scored)


def test_prompt_logprobs_equal_those_of_generation(llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=8, logprobs=1, ignore_eos=True)
    generated = llm.generate("The old man", params)[0]
    tokens = generated.prompt_token_ids + generated.outputs[0].token_ids
    scored = llm.generate([tokens], SamplingParams(max_tokens=0, prompt_logprobs=1))[0].prompt_logprobs
    assert scored is not None
    assert scored[len(generated.prompt_token_ids) :] == generated.outputs[0].logprobs


def test_repeated_prompt_hits_the_prefix_cache(llm: LLM) -> None:
    prompt = list(range(100, 180))
    llm.generate([prompt], GREEDY)
    assert llm.generate([prompt], GREEDY)[0].num_cached_tokens == 64


def test_requests_that_arrive_together_compute_a_shared_prefix_once(llm: LLM) -> None:
    prefix = list(range(200, 296))  # six blocks of 16
    prompts = [prefix + [1000 + number] * 8 for number in range(8)]
    before = llm.engine.stats.num_computed_tokens
    outputs = llm.generate(prompts, SamplingParams(temperature=0.0, max_tokens=1))
    assert llm.engine.stats.num_computed_tokens - before == len(prefix) + 8 * 8
    assert [output.num_cached_tokens for output in outputs] == [0] + [96] * 7


def test_stream_pieces_make_the_text(llm: LLM) -> None:
    deltas = list(llm.stream("In the beginning", GREEDY))
    assert "".join(delta.text for delta in deltas) == llm.generate("In the beginning", GREEDY)[0].outputs[0].text
    assert [delta.finished for delta in deltas] == [False] * (len(deltas) - 1) + [True]


def test_leaving_a_stream_frees_everything(llm: LLM) -> None:
    for _ in llm.stream("In the beginning", GREEDY):
        break
    assert llm.engine.num_unfinished == 0
    llm.engine.scheduler.block_manager.check_integrity()


def test_chat_answers_through_the_template(llm: LLM) -> None:
    messages = [{"role": "user", "content": "Tell me about the sea."}]
    output = llm.chat(messages, GREEDY)[0]
    assert len(output.outputs[0].token_ids) == 12
    assert output.prompt_token_ids == llm.chat_prompt(messages)


def test_wrong_requests_are_refused_and_harm_nobody(llm: LLM) -> None:
    with pytest.raises(RequestError, match="empty"):
        llm.generate([[]], GREEDY)
    with pytest.raises(RequestError, match="prompt token ids"):
        llm.generate([[1, 2**30]], GREEDY)
    with pytest.raises(ContextLengthError, match="256"):
        llm.generate([[5] * 256], GREEDY)
    with pytest.raises(RequestError, match="2 sampling parameters for 3 prompts"):
        llm.generate(["a", "b", "c"], [GREEDY, GREEDY])
    assert llm.engine.num_unfinished == 0


def test_a_shape_comes_from_a_file_of_any_name_or_a_directory_without_weights(tmp_path: Path) -> None:
    config = (embedded_model_path() / "config.json").read_text()
    file = tmp_path / "shape.json"
    file.write_text(config)
    (tmp_path / "config.json").write_text("{}")  # not the file that was named
    options = {"load_format": "dummy", "max_num_seqs": 1, "max_model_len": 64}
    assert LLM(config=str(file), **options).loaded.spec.hidden_size == 256
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(config)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((embedded_model_path() / name).read_bytes())
    assert len(LLM(str(directory), **options).generate("The sea", GREEDY)[0].outputs[0].token_ids) == 12


@pytest.mark.parametrize(
    "prompts", [None, 7, {"prompt": "a"}, [{"prompt_token_ids": [1]}], [None], ["a", 3], b"a", [b"a"]]
)
def test_what_is_no_prompt_is_named(llm: LLM, prompts: Any) -> None:
    for refuse in (llm.generate, llm.embed):
        with pytest.raises(RequestError, match="a prompt is a text or a list of token ids"):
            refuse(prompts)
    assert llm.engine.num_unfinished == 0


def test_a_shape_is_no_mapping() -> None:
    with pytest.raises(RequestError, match=r"StructuredOutputs\.json_schema"):
        SamplingParams(structured_outputs={"regex": "[0-9]+"})  # type: ignore[arg-type]


def test_a_pool_beyond_the_memory_is_refused_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file written on a machine with more of it; else the process would be killed when requests fill the pool."""
    monkeypatch.setattr(loader, "available_memory_bytes", lambda: 1 << 30)
    with pytest.raises(ConfigError, match=r"num_kv_blocks 100000 takes 3\.1 GiB, and beside the weights 1\.0 GiB"):
        LLM(num_kv_blocks=100_000)
    with pytest.raises(ConfigError, match="kv_cache_memory_bytes 4000000000 takes 3"):
        LLM(kv_cache_memory_bytes=4_000_000_000)


@pytest.mark.parametrize(("asked", "reason"), [(1, "as asked"), (4096, "more|take turns")])
def test_more_threads_than_cores_are_told(asked: int, reason: str) -> None:
    config = EngineConfig(num_threads=asked)
    (choice,) = thread_choices(config, CpuBackend(num_threads=1))
    assert (choice.name, choice.value) == ("num_threads", asked)
    assert re.search(reason, choice.reason)
    assert thread_choices(EngineConfig(), CpuBackend(num_threads=1)) == ()


def test_unknown_option_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'max_model_len'"):
        LLM(max_modellen=5)
    with pytest.raises(ConfigError, match="neither a directory, nor a GGUF file"):
        LLM("no such model")
