"""Constraints in the engine: what a request gets, how it ends, and that nobody else notices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from vivace.core.errors import RequestError
from vivace.core.events import RequestOutput, TokenEvent
from vivace.core.sampling import SamplingParams
from vivace.core.structured_outputs import StructuredOutputs
from vivace.engine.engine import Engine
from vivace.engine.llm import LLM
from vivace.engine.structured_output import Constraint

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "mood": {"enum": ["calm", "stormy"]},
    },
    "required": ["name", "age", "mood"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(max_num_seqs=16, max_model_len=256)


def constrained(outputs: StructuredOutputs, **values: Any) -> SamplingParams:
    return SamplingParams(
        **{"max_tokens": 80, "temperature": 1.0, "seed": 5, "structured_outputs": outputs, **values}
    )


def run(engine: Engine) -> list[TokenEvent]:
    events = []
    while engine.num_unfinished:
        events += engine.step()
    return events


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_schema_holds_for_every_continuation(llm: LLM, temperature: float) -> None:
    params = constrained(StructuredOutputs.json_schema(SCHEMA), n=3, temperature=temperature)
    outputs = llm.generate("The captain: ", params)[0].outputs
    for output in outputs:
        assert output.finish_reason == "stop"
        jsonschema.validate(json.loads(output.text), SCHEMA)
    assert len({output.text for output in outputs}) == (3 if temperature else 1)


def test_the_last_token_of_a_complete_text_is_text(llm: LLM) -> None:
    for ignore_eos in (False, True):
        output = llm.generate("x", constrained(StructuredOutputs("regex", "[ab]{4}"), ignore_eos=ignore_eos))[0]
        (only,) = output.outputs
        assert len(only.text) == 4
        assert (only.finish_reason, only.stop_reason) == ("stop", None)
        assert llm.tokenizer.decode(only.token_ids, continuation=True) == only.text


def test_a_text_that_may_end_ends_with_the_models_end_token(llm: LLM) -> None:
    eos = min(llm.tokenizer.eos_ids)
    params = constrained(StructuredOutputs("regex", "a+"), logit_bias={eos: 100.0}, temperature=0.0)
    output = llm.generate("x", params)[0].outputs[0]
    assert (output.text[:1], output.finish_reason, output.stop_reason) == ("a", "stop", eos)
    longer = llm.generate("x", constrained(StructuredOutputs("regex", "a+"), logit_bias={eos: 100.0}, min_tokens=6))
    assert len(longer[0].outputs[0].token_ids) >= 6


def test_max_tokens_cut_a_text(llm: LLM) -> None:
    output = llm.generate("x", constrained(StructuredOutputs("regex", "[a-z]{200}"), max_tokens=4))[0].outputs[0]
    assert (output.finish_reason, len(output.token_ids)) == ("length", 4)


def test_log_probabilities_are_of_the_raw_distribution(llm: LLM) -> None:
    params = constrained(StructuredOutputs.choice(["zebra", "quartz"]), logprobs=3, temperature=0.0)
    output = llm.generate("The old man", params)[0]
    free = SamplingParams(max_tokens=0, prompt_logprobs=3)
    scored = llm.generate([output.prompt_token_ids + output.outputs[0].token_ids], free)[0].prompt_logprobs
    assert scored is not None
    assert scored[len(output.prompt_token_ids) :] == output.outputs[0].logprobs
    assert output.outputs[0].logprobs is not None
    assert output.outputs[0].logprobs[0].rank > 1


def test_a_wrong_constraint_is_refused_before_anything_runs(llm: LLM) -> None:
    with pytest.raises(RequestError, match="unclosed group"):
        llm.generate(["a", "b"], [SamplingParams(), constrained(StructuredOutputs("regex", "("))])
    assert llm.engine.num_unfinished == 0


def test_the_loop_goes_on_while_a_constraint_is_compiled(llm: LLM) -> None:
    """Requests added to the engine wait there for their constraint; refused ones end with the reason."""
    engine = llm.engine
    good = constrained(StructuredOutputs("regex", "[cd]{5}"))
    engine.add("good", [5, 6, 7], good)
    engine.add("bad", [5, 6, 7], constrained(StructuredOutputs("regex", "c{5}("), n=2))
    engine.add("left", [5, 6, 7], constrained(StructuredOutputs("regex", "[ef]{5}")))
    engine.add("free", [5, 6, 7], SamplingParams(max_tokens=3, ignore_eos=True))
    engine.abort("left")
    engine.abort("left")
    events = run(engine)
    endings = {(event.request_id, event.index): event for event in events if event.finish}
    assert endings["left", 0].finish == "abort"
    assert endings["free", 0].finish == "length"
    assert endings["good", 0].finish == "stop"
    for index in range(2):
        assert endings["bad", index].finish == "error"
        assert "unclosed group" in str(endings["bad", index].stop_reason)
    written = [event.token for event in events if event.request_id == "good" and event.token is not None]
    assert set(llm.tokenizer.decode(written, continuation=True)) <= set("cd")
    engine.scheduler.block_manager.check_integrity()
    for name in ("good", "bad", "left", "free"):
        engine.forget(name)


def test_a_constraint_that_gives_up_ends_its_own_request_only(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = constrained(StructuredOutputs("regex", "[ab]{30}"))
    expected = llm.generate("x", whole)[0].outputs[0].text
    begun = 0
    true_mask = Constraint.allowed_tokens

    def mask(self: Constraint) -> bytes:
        nonlocal begun
        begun += 1
        if begun == 6:
            self.failure = "the constraint gave up: too complex"
        return true_mask(self) if self.failure is None else b""

    monkeypatch.setattr(Constraint, "allowed_tokens", mask)
    outputs = [one.outputs[0] for one in llm.generate(["x", "x", "y"], [whole, whole, SamplingParams(seed=1)])]
    assert sorted(str(output.finish_reason) for output in outputs[:2]) == ["error", "stop"]
    assert expected in [output.text for output in outputs[:2]]
    assert any(output.stop_reason == "the constraint gave up: too complex" for output in outputs[:2])


def test_a_continued_request_goes_on_where_it_was(llm: LLM) -> None:
    """As after the engine's restart: the tokens so far come with the request."""
    params = constrained(StructuredOutputs.json_schema(SCHEMA), n=2)
    prompt = llm.tokenizer.encode("The captain: ")
    whole: RequestOutput = llm.generate([prompt], params)[0]
    texts = [output.token_ids for output in whole.outputs]
    for cut in (0, 1, 7, min(map(len, texts)) - 1):
        llm.engine.add("again", prompt, params, emitted=[tokens[:cut] for tokens in texts])
        events = run(llm.engine)
        llm.engine.forget("again")
        for index, tokens in enumerate(texts):
            rest = [event.token for event in events if event.index == index and event.token is not None]
            assert tokens[:cut] + rest == tokens
        assert sorted(event.index for event in events if event.finish == "stop") == [0, 1]


def test_a_model_without_tokenizer_refuses(tmp_path: Path) -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 64,
        "max_position_embeddings": 64,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    bare = LLM(load_format="dummy", config=str(tmp_path / "config.json"), num_kv_blocks=8)
    with pytest.raises(RequestError, match="tokenizer"):
        bare.generate([[1, 2]], constrained(StructuredOutputs("json_object")))
    assert bare.engine.num_unfinished == 0
