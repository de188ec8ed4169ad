"""Turns plain text into a tokenizer and shards of token ids.

Reads `.txt` and `.txt.xz` files whose documents are separated by a line `<|endoftext|>`, trains a byte-level BPE
tokenizer on a sample of them and writes into the output folder:

    tokenizer.json, tokenizer_config.json   the tokenizer, as Hugging Face lays it out
    tokens-00000.npy, …                     uint16 ids, every document followed by <|endoftext|>
    heldout.npy                             the same for the held-out file, which trains nothing
    corpus.json                             what was read: files, documents, bytes, tokens, seed
"""

import argparse
import json
import lzma
import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.progress import track
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from training.conversations import Conversation, conversations

END_OF_TEXT, END_OF_TURN = "<|endoftext|>", "<|end|>"
ROLES = {"user": "<|user|>", "assistant": "<|assistant|>", "system": "<|system|>"}
SPECIAL_TOKENS = [END_OF_TEXT, *ROLES.values(), END_OF_TURN]  # ids 0 to 4
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
TOKENS_PER_SHARD = 32 << 20
HELDOUT_CHARS = 6_000  # of each held-out document, in heldout.txt: books would drown the articles
HELDOUT_TEXT, PROMPTS_TEXT = "heldout.txt", "prompts.txt"
PROMPTS_BYTES = 4_000_000
ENCODE_BATCH = 512


@dataclass(frozen=True)
class Corpus:
    """What the shards were made of; lengths of text in UTF-8 bytes."""

    files: list[str]
    seed: int
    documents: int
    bytes: int
    tokens: int
    conversations: int
    conversation_tokens: int
    heldout_bytes: int
    heldout_tokens: int
    vocab_size: int


def read_documents(path: Path) -> Iterator[str]:
    """The documents of a text file, plain or xz, without their separators."""
    opener = lzma.open if path.suffix == ".xz" else open
    lines: list[str] = []
    with opener(path, "rt", encoding="utf-8", newline="\n") as file:
        for line in file:
            if line.rstrip("\n") != END_OF_TEXT:
                lines.append(line)
                continue
            yield "".join(lines)
            lines = []
    yield "".join(lines)


def sample_documents(path: Path, max_bytes: int | None, excerpt_chars: int, rng: random.Random) -> list[str]:
    """Documents in random order until `max_bytes` is reached; of a long one, an excerpt that begins at a paragraph.

    Excerpts buy variety: 28 MB of whole novels are 60 books, of excerpts of 80,000 characters 350.
    """
    documents = [document for document in read_documents(path) if document.strip()]
    rng.shuffle(documents)
    taken, num_bytes = [], 0
    for document in documents:
        if max_bytes is not None and num_bytes >= max_bytes:
            break
        if max_bytes is not None and len(document) > excerpt_chars:
            start = rng.randrange(len(document) - excerpt_chars)
            start = document.find("\n\n", start) + 2 if start else 0
            document = document[start : start + excerpt_chars]
        taken.append(document)
        num_bytes += len(document.encode())
    return taken


def special_id(token: str) -> int:
    """The trainer gives the special tokens the first ids, in their order."""
    return SPECIAL_TOKENS.index(token)


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """A GPT-2-style byte-level BPE: every byte is in the vocabulary, so that any text comes back as it was."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "additional_special_tokens": SPECIAL_TOKENS[1:],
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def encode_documents(tokenizer: Tokenizer, documents: list[str], label: str) -> list[np.ndarray]:
    """Token ids of each document, closed by <|endoftext|>. Text that spells a special token stays text."""
    tokenizer.encode_special_tokens = True
    end = np.array([special_id(END_OF_TEXT)], dtype=np.uint16)
    pieces = []
    for i in track(range(0, len(documents), ENCODE_BATCH), description=label):
        for encoding in tokenizer.encode_batch(documents[i : i + ENCODE_BATCH], add_special_tokens=False):
            pieces.append(np.concatenate([np.array(encoding.ids, dtype=np.uint16), end]))
    return pieces


def encode_conversation(tokenizer: Tokenizer, turns: Conversation) -> np.ndarray:
    """Token ids as the chat template lays a conversation out, closed by <|endoftext|>."""
    newline = tokenizer.encode("\n", add_special_tokens=False).ids
    ids: list[int] = []
    for i, turn in enumerate(turns):
        role = ROLES["assistant" if i % 2 else "user"]
        ids += [special_id(role), *tokenizer.encode("\n" + turn, add_special_tokens=False).ids]
        ids += [special_id(END_OF_TURN), *newline]
    return np.array([*ids, special_id(END_OF_TEXT)], dtype=np.uint16)


def pick_conversations(
    tokenizer: Tokenizer, documents: list[str], max_tokens: int, rng: random.Random
) -> list[np.ndarray]:
    """Conversations found in the documents, in random order, up to `max_tokens` in all."""
    found = [turns for document in documents for turns in conversations(document)]
    rng.shuffle(found)
    pieces, num_tokens = [], 0
    for turns in found:
        if num_tokens >= max_tokens:
            break
        pieces.append(encode_conversation(tokenizer, turns))
        num_tokens += len(pieces[-1])
    return pieces


def write_heldout_text(documents: list[str], path: Path) -> None:
    """An excerpt of each document, as plain text: what `vivace evaluate` and the card's figures are measured on."""
    excerpts = []
    for document in documents:
        start = max(0, len(document) - HELDOUT_CHARS) // 2  # books open with lists and letters
        if start:
            start = max(start, document.find("\n\n", start, start + HELDOUT_CHARS) + 2)
        excerpts.append(document[start : start + HELDOUT_CHARS].strip())
    path.write_text("\n\n".join(excerpts) + "\n", encoding="utf-8", newline="\n")


def write_prompts(documents: list[str], path: Path) -> None:
    """A few megabytes of the training text as it is, to draw prompts from (`vivace train-medusa --data`)."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        num_bytes = 0
        for document in documents:
            num_bytes += file.write(document.strip() + "\n\n")
            if num_bytes > PROMPTS_BYTES:
                break


def write_shards(pieces: list[np.ndarray], folder: Path) -> None:
    tokens = np.concatenate(pieces)
    for shard, start in enumerate(range(0, len(tokens), TOKENS_PER_SHARD)):
        np.save(folder / f"tokens-{shard:05}.npy", tokens[start : start + TOKENS_PER_SHARD])


def prepare(options: argparse.Namespace) -> Corpus:
    """Reads, trains the tokenizer, encodes, writes; returns what corpus.json says."""
    rng = random.Random(options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    max_bytes = int(options.megabytes_per_file * 1e6) if options.megabytes_per_file else None
    documents: list[str] = []
    for path in options.files:
        documents += sample_documents(path, max_bytes, options.excerpt_chars, rng)
    heldout = [document for document in read_documents(options.heldout) if document.strip()]
    rng.shuffle(documents)

    tokenizer = train_tokenizer(documents[:: options.tokenizer_stride], options.vocab_size)
    save_tokenizer(tokenizer, options.output, options.max_length)
    pieces = encode_documents(tokenizer, documents, "encoding")
    max_chat_tokens = int(options.chat_fraction * sum(map(len, pieces)))
    chats = pick_conversations(tokenizer, documents, max_chat_tokens, rng)
    pieces += chats
    rng.shuffle(pieces)
    write_shards(pieces, options.output)
    heldout_tokens = np.concatenate(encode_documents(tokenizer, heldout, "encoding held-out text"))
    np.save(options.output / "heldout.npy", heldout_tokens)
    write_prompts(documents, options.output / PROMPTS_TEXT)
    write_heldout_text(heldout, options.output / HELDOUT_TEXT)

    corpus = Corpus(
        files=[path.name for path in options.files],
        seed=options.seed,
        documents=len(documents),
        bytes=sum(len(document.encode()) for document in documents),
        tokens=sum(map(len, pieces)),
        conversations=len(chats),
        conversation_tokens=sum(map(len, chats)),
        heldout_bytes=sum(len(document.encode()) for document in heldout),
        heldout_tokens=len(heldout_tokens),
        vocab_size=tokenizer.get_vocab_size(),
    )
    (options.output / "corpus.json").write_text(json.dumps(asdict(corpus), indent=2) + "\n")
    return corpus


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.prepare", description="Text files to token shards.")
    parser.add_argument("files", type=Path, nargs="+", help="training text, .txt or .txt.xz")
    parser.add_argument("--heldout", type=Path, required=True, help="text to measure on; trains nothing")
    parser.add_argument("--output", type=Path, required=True, help="folder for tokenizer and shards")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--max-length", type=int, default=1024, help="context that the tokenizer declares")
    parser.add_argument("--megabytes-per-file", type=float, help="sample this much of each file (default: all)")
    parser.add_argument("--excerpt-chars", type=int, default=80_000, help="longest excerpt while sampling")
    parser.add_argument("--tokenizer-stride", type=int, default=3, help="train the tokenizer on each n-th document")
    parser.add_argument("--chat-fraction", type=float, default=0.03, help="tokens of conversations to add, of all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if not 300 <= options.vocab_size <= 65_536:
        parser.error("--vocab-size must be 300 to 65536: the bytes and special tokens below, uint16 shards above")
    return options


if __name__ == "__main__":
    print(json.dumps(asdict(prepare(parse_options())), indent=2))
