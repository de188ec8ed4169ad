"""One GGUF file, from bytes to text: a real checkpoint with its vocabulary, as llama.cpp's conversion writes it."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import sentencepiece
import torch
import transformers
from gguf_export import write_gguf
from tiny_checkpoints import Case

from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM

STORY = ", there was a little girl named Lily. She loved to play outside in the park."
TYPES = gguf.GGMLQuantizationType


def add_vocabulary(writer: gguf.GGUFWriter, model_file: Path) -> None:
    """The SentencePiece vocabulary as `tokenizer.ggml.*`."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    ids = range(pieces.vocab_size())
    writer.add_tokenizer_model("llama")
    writer.add_token_list([pieces.id_to_piece(i).encode() for i in ids])
    writer.add_token_scores([pieces.get_score(i) for i in ids])
    writer.add_token_types([_token_type(pieces, i) for i in ids])
    writer.add_bos_token_id(pieces.bos_id())
    writer.add_eos_token_id(pieces.eos_id())
    writer.add_chat_template("{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}")


def _token_type(pieces: sentencepiece.SentencePieceProcessor, token_id: int) -> gguf.TokenType:
    if pieces.is_control(token_id):
        return gguf.TokenType.CONTROL
    if pieces.is_unknown(token_id):
        return gguf.TokenType.UNKNOWN
    return gguf.TokenType.BYTE if pieces.is_byte(token_id) else gguf.TokenType.NORMAL


@pytest.mark.parametrize("matrix_type", [TYPES.F32, TYPES.F16, TYPES.BF16], ids=lambda kind: kind.name)
def test_a_file_gives_the_text_of_its_checkpoint(matrix_type: TYPES, shared: Path, tmp_path: Path) -> None:
    directory = shared / "weights" / "stories260K"
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    path = tmp_path / "stories.gguf"
    write_gguf(
        model,
        Case("stories260K", "llama"),
        path,
        matrix_type,
        add_vocabulary=lambda writer: add_vocabulary(writer, directory / "tokenizer.model"),
    )
    from_file, from_directory = LLM(str(path), max_num_seqs=2), LLM(str(directory), max_num_seqs=2)
    greedy = SamplingParams(temperature=0.0, max_tokens=40, logprobs=1)
    output = from_file.generate("Once upon a time", greedy)[0]
    assert output.outputs[0].text.startswith(STORY)
    assert output.prompt_token_ids == from_directory.tokenizer.encode("Once upon a time")
    if matrix_type == TYPES.F32:  # the very same weights: the very same bits
        assert output.outputs == from_directory.generate("Once upon a time", greedy)[0].outputs
    chat = from_file.chat([{"role": "user", "content": "Once upon a time"}], greedy)[0]
    assert chat.prompt_token_ids[0] == from_file.tokenizer.bos_id
