"""Heads trained end to end on models that the engine runs, from files to files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from vivace.core.errors import ConfigError, ModelFileError
from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM
from vivace.formats.checkpoint import open_checkpoint
from vivace.formats.dequantize import dequantize
from vivace.medusa import trainer
from vivace.medusa.examples import HiddenStates
from vivace.medusa.options import MedusaOptions
from vivace.medusa.training import train_medusa
from vivace.models.medusa import read_medusa
from vivace.quantize.gguf_export import export_gguf

SMALL = MedusaOptions(
    num_heads=2, num_sequences=40, sequence_len=24, prompt_len=4, steps=8, batch=32, tree_size=12, temperatures=(0.0,)
)
TEXT = "a bad cab had a dad; " * 40


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A random Qwen 2 (biases, no head of its own) with a byte-level vocabulary of eleven letters."""
    directory = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(11)
    config = transformers.Qwen2Config(
        vocab_size=12, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=11,
    )  # fmt: skip
    transformers.Qwen2ForCausalLM(config).save_pretrained(directory)
    vocabulary = {piece: token_id for token_id, piece in enumerate("abcdh;Ġ.!?e")} | {"<|endoftext|>": 11}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    return directory


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_hidden_states_are_those_of_transformers(tiny: Path) -> None:
    llm = LLM(str(tiny), quantization="f32", kv_cache_dtype="f32")
    tokens = np.random.default_rng(0).integers(0, 12, 24).tolist()
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    with torch.no_grad():
        theirs = model.model(torch.tensor([tokens])).last_hidden_state[0].numpy()
    np.testing.assert_allclose(HiddenStates(llm, 24).of(tokens), theirs, rtol=1e-4, atol=1e-4)


def test_a_random_model_from_directory_and_from_gguf(tiny: Path, text: Path, tmp_path: Path) -> None:
    export_gguf(tiny, tmp_path / "tiny.gguf", "f32")
    for model in (str(tiny), str(tmp_path / "tiny.gguf")):
        output = tmp_path / Path(model).name.replace(".", "-")
        report = train_medusa(LLM(model), model, [text], output, SMALL)
        heads = read_medusa(output)
        assert sorted(bytes_of(output)) == ["medusa.json", "medusa.safetensors"]
        assert heads.weights_KDI.shape == (2, 32, 64)
        assert heads.tree == report.tree.paths
        assert report.num_positions == 4 * (24 - 3 - 1 - 2)


def test_heads_learn_what_a_real_model_says_next(shared: Path, tmp_path: Path) -> None:
    model = str(shared / "weights" / "stories260K")
    data = [shared / "eval" / "tinystories_sample.txt"]
    options = MedusaOptions(num_heads=2, num_sequences=64, sequence_len=96, steps=100, batch=128, learning_rate=2e-2)
    llm = LLM(model)
    untrained = train_medusa(llm, model, data, tmp_path / "untrained", replace(options, steps=1, learning_rate=1e-9))
    report = train_medusa(llm, model, data, tmp_path / "heads", options)
    for head in range(2):
        assert report.top(head, 1) > 2 * untrained.top(head, 1)
        assert report.top(head, 1) < report.top(head, 3) < report.top(head, 10) <= 1
    assert report.expected_tokens()[63] > untrained.expected_tokens()[63] + 0.2


def test_reported_accuracy_is_that_of_the_written_heads(tiny: Path, text: Path, tmp_path: Path) -> None:
    """Recomputed with torch from the files alone, on text of the model's own."""
    report = train_medusa(LLM(str(tiny)), str(tiny), [text], tmp_path / "heads", replace(SMALL, steps=30))
    heads, llm = read_medusa(tmp_path / "heads"), LLM(str(tiny))
    with open_checkpoint(tiny) as checkpoint:
        table = torch.tensor(dequantize(checkpoint.tensor("model.embed_tokens.weight")))
    manifest = json.loads((tmp_path / "heads" / "medusa.json").read_text())
    assert manifest["accuracy"][0][0] == pytest.approx(report.accuracy_KR[0][0], abs=1e-6)
    hits = [[], []]
    for prompt_at in range(60):
        prompt = llm.tokenizer.encode(TEXT[prompt_at : prompt_at + 4])
        from_model = llm.generate([prompt], params=greedy(20))[0].outputs[0].token_ids
        tokens = [*prompt, *from_model]
        hidden = torch.tensor(HiddenStates(llm, 24).of(tokens))[:-1]
        behind = table[torch.tensor(tokens[1:])]
        inputs = torch.cat([hidden, behind / (behind.square().mean(1, keepdim=True) + 1e-6).sqrt()], 1)
        for head in range(2):
            block = torch.nn.functional.silu(
                inputs @ torch.tensor(heads.weights_KDI[head]).T + torch.tensor(heads.biases_KD[head])
            )
            guesses = ((hidden + block) @ table.T).argmax(dim=1).tolist()
            hits[head] += [guesses[t] == tokens[t + 2 + head] for t in range(3, 24 - 3)]
    for head in range(2):  # other positions of the same text: equal up to the noise of the sample
        assert np.mean(hits[head]) == pytest.approx(report.accuracy_KR[head][0], abs=0.2)


def greedy(num_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("kill_at", ["second file of examples", "step 5"])
def test_a_killed_training_goes_on_to_the_same_bytes(
    kill_at: str, tiny: Path, text: Path, tmp_path: Path, monkeypatch
) -> None:
    llm = LLM(str(tiny))
    train_medusa(llm, str(tiny), [text], tmp_path / "whole", SMALL)
    monkeypatch.setattr(trainer, "SAVE_EVERY_S", -1.0)  # after every step

    def progress(stage: str, done: int, _: int) -> None:
        if (kill_at, stage, done) in (("second file of examples", "examples", 32), ("step 5", "steps", 5)):
            raise KilledError

    with pytest.raises(KilledError):
        train_medusa(llm, str(tiny), [text], tmp_path / "killed", SMALL, progress)
    assert "medusa.json" not in bytes_of(tmp_path / "killed")
    steps = []
    train_medusa(
        llm, str(tiny), [text], tmp_path / "killed", SMALL, lambda stage, done, _: steps.append((stage, done))
    )
    assert (("steps", 1) in steps) == (kill_at != "step 5")
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


def test_a_folder_that_cannot_be_is_refused_in_one_line(tiny: Path, text: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    llm = LLM(str(tiny))
    for output in (tmp_path / "file", tmp_path / "file" / "heads"):
        with pytest.raises(ConfigError, match=r"cannot write .*file.*; name another folder"):
            train_medusa(llm, str(tiny), [text], output, SMALL)


def test_folders_of_others_are_left_alone(tiny: Path, text: Path, tmp_path: Path) -> None:
    llm = LLM(str(tiny))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(ConfigError, match="not empty"):
        train_medusa(llm, str(tiny), [text], tmp_path / "mine", SMALL)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="unfinished training"):
        train_medusa(llm, str(tiny), [text], tmp_path / "run", SMALL)


def test_texts_that_cannot_serve_are_refused(tiny: Path, tmp_path: Path) -> None:
    llm = LLM(str(tiny))
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_text("abc")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 400)
    for name, message in (
        ("empty", "no text"),
        ("short", "no 4 tokens"),
        ("latin", "UTF-8"),
        ("none", "no such file"),
    ):
        with pytest.raises(ConfigError, match=message):
            train_medusa(llm, str(tiny), [tmp_path / f"{name}.txt"], tmp_path / "out", SMALL)
    with pytest.raises(ConfigError, match="context of 64"):
        train_medusa(llm, str(tiny), [tmp_path / "short.txt"], tmp_path / "out", replace(SMALL, sequence_len=65))


@pytest.mark.parametrize(
    "field", [{"num_heads": 0}, {"num_heads": 17}, {"num_sequences": 1}, {"sequence_len": 5}, {"learning_rate": 0.0},
              {"learning_rate": float("nan")}, {"temperatures": (-1.0,)}, {"temperatures": ()},
              {"steps": 0}, {"seed": -1}, {"tree_size": 2000}]
)  # fmt: skip
def test_options_that_cannot_work_are_refused(field: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(field))):
        replace(SMALL, **field)


def test_a_state_of_something_else_is_refused(tiny: Path, text: Path, tmp_path: Path, monkeypatch) -> None:
    llm = LLM(str(tiny))
    monkeypatch.setattr(trainer, "SAVE_EVERY_S", -1.0)

    def progress(stage: str, done: int, _: int) -> None:
        if (stage, done) == ("steps", 2):
            raise KilledError

    with pytest.raises(KilledError):
        train_medusa(llm, str(tiny), [text], tmp_path / "run", SMALL, progress)
    (tmp_path / "run" / "state.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(ModelFileError, match="delete it to start over"):
        train_medusa(llm, str(tiny), [text], tmp_path / "run", SMALL)
