"""Text to token ids and back, for every vocabulary format that checkpoints carry."""

from vivace.engine.tokenizer.directory import load_tokenizer
from vivace.engine.tokenizer.gguf_vocabulary import tokenizer_from_gguf
from vivace.engine.tokenizer.text_stream import TextStream
from vivace.engine.tokenizer.tokenizer import Tokenizer

__all__ = ["TextStream", "Tokenizer", "load_tokenizer", "tokenizer_from_gguf"]
