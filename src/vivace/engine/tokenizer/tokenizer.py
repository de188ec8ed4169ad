"""One tokenizer for every vocabulary: text to ids and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import tokenizers

from vivace.core.errors import RequestError
from vivace.engine.tokenizer.control_tokens import ControlTokens
from vivace.engine.tokenizer.text_stream import TextStream
from vivace.engine.tokenizer.token_bytes import PieceCoding, TokenBytes

# Control tokens that end a turn or a text in published models, whatever the files declare as end of sequence.
END_OF_TURN_NAMES = frozenset(
    {
        "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
        "<EOT>", "_<EOT>", "<|EOT|>", "<|end_of_turn|>", "<｜end▁of▁sentence｜>",
    }
)  # fmt: skip
# Names that are control tokens even where a vocabulary lists them as ordinary added text.
CONTROL_NAMES = END_OF_TURN_NAMES | {"<s>", "</s>", "<bos>", "<eos>", "<|im_start|>", "<start_of_turn>"}


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Ids with a role; None where the vocabulary has no such token.

    `eos_id` is the declared end of sequence; `eos_ids` are all ids that end a text, end-of-turn tokens too.
    """

    bos_id: int | None
    eos_id: int | None
    eos_ids: frozenset[int]
    pad_id: int | None
    unk_id: int | None


@dataclass(frozen=True, slots=True)
class Frame:
    """Ids that stand before and after every text which is encoded with `add_special`."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


class Tokenizer:
    """`backend` splits text into pieces; control tokens, framing and decoding are done here.

    `backend` must not find control tokens in text (`encode_special_tokens` set, each control token special).
    `continuation` gives a backend for text after a control token, where that differs: vocabularies which put a
    space before the first piece of a text only. `strips_space`: decoding a whole text drops one leading space.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special: SpecialIds,
        frame: Frame,
        control: ControlTokens,
        coding: PieceCoding,
        strips_space: bool,
        chat_template: str | None = None,
        continuation: Callable[[], tokenizers.Tokenizer] | None = None,
    ) -> None:
        self.backend = backend
        self.bos_id = special.bos_id
        self.eos_id = special.eos_id
        self.eos_ids = special.eos_ids
        self.pad_id = special.pad_id
        self.unk_id = special.unk_id
        self.special_ids = control.ids
        self.control = control
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        self.chat_template = chat_template
        self.frame = frame
        self._strips_space = strips_space
        self._load_continuation = continuation
        self._continuation = backend if continuation is None else None
        added = {token_id: token.content for token_id, token in backend.get_added_tokens_decoder().items()}
        added |= control.name_of
        self._bytes_of = TokenBytes(coding, backend.id_to_token, added)
        self._visible_bytes_of = TokenBytes(coding, backend.id_to_token, added, control.ids)

    @property
    def add_bos(self) -> bool:
        """Whether `encode` puts the begin-of-sequence token first."""
        return self.bos_id is not None and self.bos_id in self.frame.before

    @property
    def add_eos(self) -> bool:
        """Whether `encode` puts an end-of-sequence token last."""
        return any(token_id in self.eos_ids for token_id in self.frame.after)

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Ids of `text`; names of control tokens in it are plain text unless `parse_special`.

        Raises `RequestError` for text that is no valid Unicode (lone surrogates).
        """
        ids = self._encode_parsed(text) if parse_special else self._encode_plain(self.backend, text)
        return [*self.frame.before, *ids, *self.frame.after] if add_special else ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True, continuation: bool = False) -> str:
        """Text of `ids`. `continuation`: the ids follow other text, so that a leading space is kept."""
        stream = self.stream(skip_special=skip_special, continuation=continuation)
        return stream.push(ids) + stream.finish()

    def stream(self, *, skip_special: bool = True, continuation: bool = True) -> TextStream:
        """An incremental decoder of one sequence of ids."""
        return TextStream(
            self._visible_bytes_of if skip_special else self._bytes_of,
            strips_space=self._strips_space and not continuation,
        )

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes that a token stands for; control tokens give their name, unknown ids nothing."""
        return self._bytes_of[token_id]

    def id_of(self, piece: str) -> int | None:
        """Id of a piece as the vocabulary writes it."""
        token_id = self.control.id_of(piece)
        return self.backend.token_to_id(piece) if token_id is None else token_id

    def _encode_parsed(self, text: str) -> list[int]:
        ids: list[int] = []
        backend = self.backend
        for part in self.control.split(text):
            if isinstance(part, str):
                ids += self._encode_plain(backend, part)
            else:
                ids.append(part)
            backend = self._continuation_backend()
        return ids

    def _continuation_backend(self) -> tokenizers.Tokenizer:
        if self._continuation is None:
            assert self._load_continuation is not None
            self._continuation = self._load_continuation()
        return self._continuation

    @staticmethod
    def _encode_plain(backend: tokenizers.Tokenizer, text: str) -> list[int]:
        if not text:
            return []
        try:
            ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError) as error:
            raise RequestError("the text holds a lone surrogate, which is no Unicode character") from error
        return ids
