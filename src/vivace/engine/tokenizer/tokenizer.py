"""One tokenizer for every vocabulary: text to ids and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import tokenizers

from vivace.core.errors import ContextLengthError, RequestError
from vivace.engine.tokenizer.control_tokens import ControlTokens
from vivace.engine.tokenizer.piece_bound import PieceBound, piece_bound
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

# From here on, a text is encoded as a batch of one: that releases the GIL (4 MiB: 1 to 4 s in which every other
# thread runs, 50 ms held), where `encode` holds it throughout; for short texts `encode` is 10 us faster.
_BATCH_FROM_CHARS = 4_096


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

    @cached_property
    def piece_bound(self) -> PieceBound | None:
        """How much text one token can stand for; None where that cannot be said."""
        return piece_bound(self.backend)

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = False, max_tokens: int | None = None
    ) -> list[int]:
        """Ids of `text`; names of control tokens in it are plain text unless `parse_special`.

        Raises `RequestError` for text that is no valid Unicode (lone surrogates), and `ContextLengthError`, without
        encoding it, for text whose length alone tells that it has more than `max_tokens` tokens.
        """
        if max_tokens is not None and not (parse_special and self.control.strip_spaces):
            self._check_length(text, max_tokens)
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

    def _check_length(self, text: str, max_tokens: int) -> None:
        bound = self.piece_bound
        if bound is None or len(text) <= max_tokens:
            return
        num_tokens = bound.min_tokens(text)
        if num_tokens > max_tokens:
            raise ContextLengthError(
                f"the prompt has at least {num_tokens} tokens, more than the {max_tokens} that fit; "
                "shorten it or raise max_model_len",
                param="prompt",
            )

    @staticmethod
    def _encode_plain(backend: tokenizers.Tokenizer, text: str) -> list[int]:
        if not text:
            return []
        try:
            if len(text) < _BATCH_FROM_CHARS:
                ids: list[int] = backend.encode(text, add_special_tokens=False).ids
            else:
                ids = backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
        except (TypeError, UnicodeEncodeError) as error:
            raise RequestError("the text holds a lone surrogate, which is no Unicode character") from error
        return ids
