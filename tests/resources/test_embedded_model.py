"""The model that the package carries, as transformers reads it."""

import json
import math
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from vivace.resources import embedded_model_path

PROSE = """It was late when the old man came back to the house, and the fire had gone out. He sat down by the window
and looked at the road, where nobody had passed since the morning. "I shall wait," he said, "until she comes." """


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(embedded_model_path())


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(embedded_model_path(), dtype=torch.float32)


def nats_per_token(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()


def test_folder_is_complete_and_fits_the_package():
    path = embedded_model_path()
    names = {file.name for file in path.iterdir()}
    tokenizer_names = {"tokenizer.json", "tokenizer_config.json"}
    assert names == {"config.json", "generation_config.json", "model.safetensors", "README.md"} | tokenizer_names
    assert sum(file.stat().st_size for file in path.iterdir()) < 8_000_000


def test_shapes_suit_blocks_of_every_quantization():
    config = json.loads((embedded_model_path() / "config.json").read_text())
    assert config["hidden_size"] % 256 == config["intermediate_size"] % 256 == 0
    assert config["num_attention_heads"] > config["num_key_value_heads"]
    assert config["tie_word_embeddings"]


def test_english_is_likelier_than_its_words_in_disorder(model, tokenizer):
    ordered = tokenizer(" ".join(PROSE.split()))["input_ids"]
    shuffled = tokenizer(" ".join(sorted(PROSE.split(), key=lambda word: word[::-1])))["input_ids"]
    assert nats_per_token(model, ordered) < nats_per_token(model, shuffled) - 0.5
    assert nats_per_token(model, ordered) < 0.6 * math.log(len(tokenizer))


def test_chat_template_opens_and_closes_turns_with_special_tokens(model, tokenizer):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who is there?"}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == "<|system|>\nBe brief.<|end|>\n<|user|>\nWho is there?<|end|>\n<|assistant|>\n"
    ids = tokenizer(text)["input_ids"]
    assert [token for token in ids if token in tokenizer.all_special_ids] == [3, 4, 1, 4, 2]
    assert tokenizer.convert_tokens_to_ids("<|end|>") in model.generation_config.eos_token_id


def test_card_names_data_licence_and_quality():
    card = (embedded_model_path() / "README.md").read_text()
    assert "Apache-2.0" in card
    assert "public domain" in card
    assert re.search(r"perplexity \d+\.\d\d, \d\.\d{3} bits per byte", card)
