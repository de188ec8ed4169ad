"""A model of every family written as GGUF: the same logits, to the bit, from our engine and our reader."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from decoder_run import prompt_logits
from tiny_checkpoints import CASES, CASES_BY_NAME, VOCAB_SIZE, Case, make_model, prompt_tokens, save
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from vivace.backends.cpu.backend import CpuBackend
from vivace.core.errors import ConfigError, UnsupportedError
from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM
from vivace.engine.tokenizer import load_tokenizer, tokenizer_from_gguf
from vivace.engine.tokenizer.gguf_entries import gguf_entries
from vivace.formats.checkpoint import open_checkpoint
from vivace.models.gguf_config import spec_from_gguf
from vivace.models.hf_config import read_hf_config
from vivace.models.parameters import load_parameters
from vivace.quantize.gguf_export import export_gguf

UNSAYABLE = {  # query_pre_attn_scalar and another activation than the family's have no key in GGUF
    "gemma2": "attention_scale",
    "gemma2-no-caps": "attention_scale",
    "gemma3": "attention_scale",
    "llama-wide-heads": "activation",
}
ROUNDED = {"llama3-rope", "llama-yarn", "phi3-longrope-short", "phi3-longrope-long"}  # rotary factors become float32
TEXTS = ["It's 12345 o'clock.\n\n  WE'LL see", "naïve 日本 😀 <b>x</b>\t\r\n", "<|endoftext|> <s> is text", ""]


def add_tokenizer(directory: Path) -> None:
    """A byte-level vocabulary of as many tokens as the tiny models have, `!` to `~` and a few control tokens."""
    vocabulary = {"<s>": 1, "</s>": 2, "<pad>": 0} | {chr(0x21 + i): 3 + i for i in range(VOCAB_SIZE - 3)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("t", "h")][:0]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<pad>", "<s>", "</s>")])
    tokenizer.save(str(directory / "tokenizer.json"))
    roles = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "chat_template": "{{ messages }}"}
    (directory / "tokenizer_config.json").write_text(json.dumps(roles))


def logits(path: Path, max_model_len: int) -> np.ndarray:
    backend = CpuBackend(num_threads=1)
    with open_checkpoint(path) as checkpoint:
        spec = read_hf_config(path) if path.is_dir() else spec_from_gguf(checkpoint)
        parameters = load_parameters(spec, checkpoint, backend)
    return prompt_logits(backend, spec, parameters, prompt_tokens(), max_model_len)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_family_gives_the_same_logits(case: Case, tmp_path: Path) -> None:
    save(make_model(case), tmp_path / "model")
    add_tokenizer(tmp_path / "model")
    path = tmp_path / "model.gguf"
    if case.name in UNSAYABLE:
        with pytest.raises(UnsupportedError, match=UNSAYABLE[case.name]):
            export_gguf(tmp_path / "model", path, "f32")
        assert not path.exists()
        return
    export_gguf(tmp_path / "model", path, "f32")
    ours, theirs = (logits(one, case.max_model_len) for one in (path, tmp_path / "model"))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 if case.name in ROUNDED else 0)
    names = {tensor.name for tensor in gguf.GGUFReader(path).tensors}
    assert ("output.weight" in names) != read_hf_config(tmp_path / "model").tied_embeddings


@pytest.mark.parametrize("encoding", ["f16", "bf16", "q8_0"])
def test_blocks_are_those_of_the_engine_and_narrow_rows_are_half(encoding: str, tmp_path: Path) -> None:
    """Rows of 80 hold no whole blocks of 32, rows of 64 and 96 do."""
    narrow = Case("narrow", "llama", {"hidden_size": 64, "head_dim": 16, "tie_word_embeddings": True})
    save(make_model(narrow), tmp_path / "narrow")
    add_tokenizer(tmp_path / "narrow")
    export_gguf(tmp_path / "narrow", tmp_path / "narrow.gguf", encoding)
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "narrow.gguf").tensors}
    assert types["blk.1.ffn_down.weight"] == ("F16" if encoding.startswith("q") else encoding.upper())
    case = Case("wide", "llama", narrow.fields | {"intermediate_size": 96})
    save(make_model(case), tmp_path / "model")
    add_tokenizer(tmp_path / "model")
    export_gguf(tmp_path / "model", tmp_path / "model.gguf", encoding)
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert types["blk.1.attn_q.weight"] == types["token_embd.weight"] == encoding.upper()
    assert types["blk.1.ffn_down.weight"] == encoding.upper()
    assert types["blk.1.attn_norm.weight"] == "F32"
    if encoding != "f16":  # no option of the engine's
        quantization = {"bf16": "bf16", "q8_0": "int8"}[encoding]
        greedy = SamplingParams(temperature=0.0, max_tokens=12, logprobs=3, ignore_eos=True)
        outputs = [
            LLM(str(tmp_path / name), **options).generate([prompt_tokens().tolist()], greedy)[0].outputs
            for name, options in (("model", {"quantization": quantization}), ("model.gguf", {}))
        ]
        assert outputs[0] == outputs[1]


def test_a_real_checkpoint_of_sentencepiece(shared: Path, tmp_path: Path) -> None:
    directory = shared / "weights" / "stories260K"
    export_gguf(directory, tmp_path / "stories.gguf", "f32")
    greedy = SamplingParams(temperature=0.0, max_tokens=30, logprobs=1)
    ours, theirs = (
        LLM(str(path)).generate("Once upon a time", greedy)[0] for path in (tmp_path / "stories.gguf", directory)
    )
    assert ours.prompt_token_ids == theirs.prompt_token_ids
    assert ours.outputs == theirs.outputs


@pytest.mark.parametrize("name", ["gpt2", "smollm2", "phi3", "qwen2.5"])
def test_real_vocabularies_keep_their_ids(name: str, shared: Path) -> None:
    directory = shared / "tokenizers" / name
    tokenizer = load_tokenizer(directory)
    try:
        metadata = gguf_entries(tokenizer, directory, tokenizer.vocab_size + 5)
    except UnsupportedError:
        assert name == "phi3", "only a vocabulary without its SentencePiece model has no scores"
        return
    back = tokenizer_from_gguf(metadata)
    assert len(metadata["tokenizer.ggml.tokens"]) == tokenizer.vocab_size + 5
    for text in TEXTS:
        assert back.encode(text) == tokenizer.encode(text)
    assert back.chat_template == tokenizer.chat_template


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    save(make_model(CASES_BY_NAME["qwen2"]), tmp_path / "model")
    with pytest.raises(ConfigError, match=r"'iq2_xs' cannot be written; known are .*Q4_K_M"):
        export_gguf(tmp_path / "model", tmp_path / "out.gguf", "iq2_xs")
    add_tokenizer(tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "tokenizer.json").read_text())
    settings["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(UnsupportedError, match="tokenizer"):
        export_gguf(tmp_path / "model", tmp_path / "out.gguf", "f32")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}
