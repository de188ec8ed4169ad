"""Random Llama checkpoints with a tokenizer of a few words, and what torch makes of a text with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers

BYTES = 256
CONTEXT = 128


def random_llama(folder: Path, *, seed: int, noise: float = 0.0, num_words: int = 0) -> Path:
    """Float32, every parameter random from `seed`; `noise` adds that share of others (seed + 1).

    The vocabulary: the bytes, BOS and EOS, and `num_words` pieces of two letters.
    """
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=BYTES + 2 + num_words,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=BYTES,
        eos_token_id=BYTES + 1,
        tie_word_embeddings=False,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    draws = torch.Generator().manual_seed(seed)
    others = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.ndim == 2 else 0.1
            values = torch.randn(parameter.shape, generator=draws) + noise * torch.randn(
                parameter.shape, generator=others
            )
            parameter.copy_(scale * values + (1.0 if parameter.ndim == 1 else 0.0))
    model.save_pretrained(folder)
    _tokenizer(num_words).save(str(folder / "tokenizer.json"))
    return folder


def byte_ids(text: str) -> list[int]:
    """Ids without pieces of two letters: a token for every byte."""
    return _tokenizer(0).encode(text).ids


def _tokenizer(num_words: int) -> tokenizers.Tokenizer:
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: index for index, piece in enumerate(alphabet)}
    vocabulary |= {"<bos>": BYTES, "<eos>": BYTES + 1}
    merges = [(a, b) for a in "etaoinshr" for b in "etaoinshr" if a != b][:num_words]
    vocabulary |= {a + b: BYTES + 2 + index for index, (a, b) in enumerate(merges)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<bos>", "<eos>"])
    return tokenizer


def scored_by_torch(
    model: Path, ids: list[int], window: int, stride: int
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Log probabilities [T, V] that predict each token but the first, the tokens, and their positions in a window.

    The loop of transformers' own page on the perplexity of fixed-length models.
    """
    torch.set_num_threads(1)
    oracle = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    rows, context, previous_end = [], [], 0
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        with torch.no_grad():
            logprobs = oracle(torch.tensor([ids[begin:end]])).logits[0].double().log_softmax(-1)
        num_scored = end - max(previous_end, 1)
        rows.append(logprobs[-1 - num_scored : -1])
        context.extend(range(end - begin - num_scored, end - begin))
        previous_end = end
        if end == len(ids):
            break
    return torch.cat(rows), torch.tensor(ids[1:]), np.array(context, np.int32)
