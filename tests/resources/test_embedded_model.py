"""The models that the package carries, as transformers and our own readers see them."""

import json
import math
import re

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from vivace.core.errors import ConfigError
from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM
from vivace.formats.checkpoint import open_checkpoint
from vivace.formats.fingerprint import checkpoint_fingerprint
from vivace.models.medusa import read_medusa
from vivace.resources import KINDS, MODEL_NAMES, embedded_model_path, resource, resources

PROSE = """It was late when the old man came back to the house, and the fire had gone out. He sat down by the window
and looked at the road, where nobody had passed since the morning. "I shall wait," he said, "until she comes." """
MODEL_FILES = {
    "config.json", "generation_config.json", "model.safetensors", "README.md", "tokenizer.json",
    "tokenizer_config.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(embedded_model_path())


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(embedded_model_path(), dtype=torch.float32)


@pytest.fixture(scope="module")
def draft():
    return AutoModelForCausalLM.from_pretrained(resource("embedded-draft").path, dtype=torch.float32)


def nats_per_token(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()


def test_folders_are_complete_and_fit_the_package():
    for name in MODEL_NAMES:
        assert {file.name for file in resource(name).path.iterdir()} == MODEL_FILES
    medusa = {file.name for file in resource("embedded-medusa").path.iterdir()}
    assert medusa == {"medusa.json", "medusa.safetensors", "README.md"}
    assert [one.name for one in resources()] == list(KINDS)
    assert sum(one.num_bytes for one in resources()) < 12_000_000


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="embedded-draft"):
        resource("embedded/../..")


def test_shapes_suit_blocks_of_every_quantization():
    config = json.loads((embedded_model_path() / "config.json").read_text())
    assert config["hidden_size"] % 256 == config["intermediate_size"] % 256 == 0
    assert config["num_attention_heads"] > config["num_key_value_heads"]
    assert config["tie_word_embeddings"]
    assert config["max_position_embeddings"] >= 2048


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_our_engine_computes_what_transformers_computes(name, tokenizer):
    ids = tokenizer(PROSE)["input_ids"]
    theirs = AutoModelForCausalLM.from_pretrained(resource(name).path, dtype=torch.float32)
    with torch.no_grad():
        expected = torch.log_softmax(theirs(torch.tensor([ids])).logits[0], dim=-1)
    llm = LLM(name, quantization="f32", kv_cache_dtype="f32")
    scored = llm.generate([ids], SamplingParams(max_tokens=0, prompt_logprobs=0))[0].prompt_logprobs
    ours = [entry.logprob for entry in scored[1:]]
    truth = [expected[place, token].item() for place, token in enumerate(ids[1:])]
    np.testing.assert_allclose(ours, truth, atol=2e-3)


def test_english_is_likelier_than_its_words_in_disorder(model, tokenizer):
    ordered = tokenizer(" ".join(PROSE.split()))["input_ids"]
    shuffled = tokenizer(" ".join(sorted(PROSE.split(), key=lambda word: word[::-1])))["input_ids"]
    assert nats_per_token(model, ordered) < nats_per_token(model, shuffled) - 0.5
    assert nats_per_token(model, ordered) < 0.6 * math.log(len(tokenizer))


def test_long_contexts_help_to_the_last_position(model, tokenizer):
    """The same passage three times in 2,048 tokens is no harder at the end than at the start."""
    text = (resource("embedded").path / "README.md").read_text()
    ids = tokenizer(text)["input_ids"]
    window = (ids * (2048 // len(ids) + 1))[:2048]
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(
            model(torch.tensor([window])).logits[0, :-1], torch.tensor(window[1:]), reduction="none"
        )
    assert losses[-512:].mean() < losses[:512].mean() + 0.3


def test_chat_template_opens_and_closes_turns_with_special_tokens(model, tokenizer):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who is there?"}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == "<|system|>\nBe brief.<|end|>\n<|user|>\nWho is there?<|end|>\n<|assistant|>\n"
    ids = tokenizer(text)["input_ids"]
    assert [token for token in ids if token in tokenizer.all_special_ids] == [3, 4, 1, 4, 2]
    assert tokenizer.convert_tokens_to_ids("<|end|>") in model.generation_config.eos_token_id


def test_draft_is_small_and_guesses_for_its_target(model, draft, tokenizer):
    assert 6 <= model.num_parameters() / draft.num_parameters() <= 10
    assert (resource("embedded-draft").path / "tokenizer.json").read_bytes() == (
        embedded_model_path() / "tokenizer.json"
    ).read_bytes()
    ids = torch.tensor([tokenizer(PROSE)["input_ids"]])
    with torch.no_grad():
        p, q = (torch.softmax(one(ids).logits, dim=-1) for one in (model, draft))
    assert torch.minimum(p, q).sum(dim=-1).mean() > 0.4


def test_medusa_heads_belong_to_the_embedded_model(model, tokenizer):
    heads = read_medusa(resource("embedded-medusa").path)
    with open_checkpoint(embedded_model_path()) as checkpoint:
        assert heads.base_fingerprint == checkpoint_fingerprint(checkpoint)
    assert 3 <= heads.num_heads <= 5
    assert heads.vocab_size == model.config.vocab_size
    llm = LLM("embedded")
    prompt = tokenizer(PROSE)["input_ids"]
    greedy = SamplingParams(temperature=0.0, max_tokens=96, ignore_eos=True)
    ids = torch.tensor([[*prompt, *llm.generate([prompt], greedy)[0].outputs[0].token_ids]])
    with torch.no_grad():
        hidden = model.model(ids).last_hidden_state[0]
        weight, bias = torch.tensor(heads.weights_KDI[0]), torch.tensor(heads.biases_KD[0])
        behind = model.model.embed_tokens(ids[0, 1:])
        inputs = torch.cat([hidden[:-1], behind / (behind.square().mean(1, keepdim=True) + 1e-6).sqrt()], 1)
        guessed = model.lm_head(hidden[:-1] + torch.nn.functional.silu(inputs @ weight.T + bias))
        plain = model.lm_head(hidden[:-1])
    start = len(prompt) - 1
    truth = ids[0, start + 2 :, None]
    right, lucky = ((one[start:-1].topk(5).indices == truth).any(dim=-1).float().mean() for one in (guessed, plain))
    assert right > 0.4
    assert right > lucky + 0.1


def test_cards_name_data_licence_and_quality():
    for one in resources():
        assert "Apache-2.0" in one.card
        assert one.summary.endswith("Apache-2.0.")
    card = resource("embedded").card
    assert "public domain" in card
    assert re.search(r"perplexity \d+\.\d\d, \d\.\d{3} bits per byte", card)
    assert "acceptance of its samples" in resource("embedded-draft").card
