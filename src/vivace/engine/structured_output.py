"""Constraints compiled for a vocabulary, and followed token by token: llguidance (Earley parser over lazy lexers).

Compiling takes 1 to 5 ms for ordinary schemas, a mask 20 to 200 us. Both are bounded: a grammar over the limits is
refused when it is compiled, or fails its own request while it runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import gbnf_to_lark

from vivace.core.errors import RequestError
from vivace.core.structured_outputs import StructuredOutputs
from vivace.engine.structured_grammar import lark_grammar
from vivace.engine.tokenizer import Tokenizer

MAX_MESSAGE_CHARS = 400
_PARAM = "structured_outputs"
_PLACE_IN_OUR_GRAMMAR = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")


def parser_limits() -> LLParserLimits:
    """Bounds on one constraint. Defaults of the library in brackets."""
    return LLParserLimits(
        max_items_in_row=1_000,  # [2,000]
        initial_lexer_fuel=1_000_000,  # [1,000,000] 20 ms
        step_lexer_fuel=100_000,  # [200,000] 7 ms for one mask
        step_max_items=20_000,  # [50,000] 1 ms for one mask
        max_lexer_states=12_000,  # [250,000] at 30,000 one mask takes 0.4 s
        max_grammar_size=300_000,  # [500,000]
        verbose_errors=False,
    )


class ConstraintCompiler:
    """Compiles constraints for one tokenizer. Building it takes 40 ms for 4,096 tokens, 2 s for 152,000."""

    def __init__(self, tokenizer: Tokenizer, eos_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._limits = parser_limits()
        self._native = _native_tokenizer(tokenizer, sorted(eos_ids))

    def compile(self, outputs: StructuredOutputs) -> CompiledConstraint:
        """Raises `RequestError` for what is wrong, unsupported, or beyond the limits."""
        grammar = lark_grammar(_in_lark(outputs), self._tokenizer.control.id_of)
        matcher = self._matcher(grammar)
        if matcher.is_error():
            raise _refusal(outputs, matcher)
        matcher.compute_bitmask()  # the first one builds the most: copies have it already
        if matcher.is_error() or (matcher.is_stopped() and not matcher.is_accepting()):
            raise _refusal(outputs, matcher)
        return CompiledConstraint(matcher, lambda: self._matcher(grammar))

    def _matcher(self, grammar: str) -> LLMatcher:
        return LLMatcher(self._native, grammar, log_level=0, limits=self._limits)


class CompiledConstraint:
    """A constraint, ready to be followed by any number of continuations.

    They share the lexer, whose states are made when they are first needed. One that reached its limit is no use to
    anybody any more: `is_spent` says so, and those who follow it go on with a lexer of their own.
    """

    def __init__(self, matcher: LLMatcher, make_matcher: Callable[[], LLMatcher]) -> None:
        self._matcher = matcher
        self.make_matcher = make_matcher
        self.is_spent = False

    def begin(self) -> Constraint:
        """A matcher at the start of the text: a copy, 4 us."""
        return Constraint(self._matcher.deep_copy(), self)


class Constraint:
    """One continuation's way through a constraint: a `vivace.core.constraint.TokenConstraint`."""

    __slots__ = ("_accepted", "_ahead", "_matcher", "_shared", "failure")

    def __init__(self, matcher: LLMatcher, shared: CompiledConstraint) -> None:
        self._matcher = matcher
        self._shared: CompiledConstraint | None = shared  # None once it goes its way alone
        self._accepted: list[int] = []
        self._ahead: list[bytes] = []  # masks behind guesses
        self.failure: str | None = None

    @property
    def is_complete(self) -> bool:
        return self.failure is None and self._matcher.is_stopped() and self._matcher.is_accepting()

    def allowed_tokens(self) -> bytes:
        while self.failure is None:
            mask = self._matcher.compute_bitmask()
            if not self._matcher.is_error():
                return mask
            self._go_alone_or_fail()
        return b""

    def look_ahead(self, guesses: list[int]) -> int:
        """On a copy (0.6 us), so that guesses leave no trace. It shares the lexer, whose limit they may reach: that
        must not end a text that would have gone on without guesses, so there are none once the lexer is its own."""
        self._ahead = []
        if self.failure is not None or self._shared is None:
            return 0
        matcher = self._matcher.deep_copy()
        for guess in guesses:
            if not matcher.validate_tokens([guess]) or not matcher.consume_token(guess) or matcher.is_stopped():
                break
            mask = matcher.compute_bitmask()
            if matcher.is_error():
                break
            self._ahead.append(mask)
        return len(self._ahead)

    def allowed_ahead(self, num_guesses: int) -> bytes:
        return self._ahead[num_guesses - 1]

    def accept(self, token: int) -> None:
        if self.failure is None:
            self._accepted.append(token)
            if not self._matcher.consume_token(token):
                self._go_alone_or_fail()

    def _go_alone_or_fail(self) -> None:
        """What others made of the shared lexer must not end this text: only its own limits may."""
        if self._shared is not None:
            self._shared.is_spent = True
            self._matcher = self._shared.make_matcher()
            self._shared = None
            self._matcher.consume_tokens(self._accepted)
        if self._matcher.is_error():
            self.failure = f"the constraint gave up: {_short(self._matcher.get_error())}"


class _Vocabulary:
    """A tokenizer as llguidance wants it: token bytes by id, special tokens apart."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, eos_ids: list[int]) -> None:
        self._tokenizer = tokenizer
        self.tokens = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
        special = set(tokenizer.special_ids) | set(eos_ids)
        if not eos_ids:  # one that no model can sample
            eos_ids = [len(self.tokens)]
            special.add(len(self.tokens))
            self.tokens.append(b"<end of constrained text>")
        self._id_of = {piece: token_id for token_id, piece in enumerate(self.tokens) if token_id not in special}
        self._longest = max(map(len, self._id_of), default=0)
        self.eos_token_id = eos_ids[0]
        self.bos_token_id = tokenizer.bos_id
        self.eos_ids = eos_ids
        self.special_token_ids = sorted(special)

    def __call__(self, text: str | bytes) -> list[int]:
        """How the model would write a text that the grammar forces."""
        wanted = text if isinstance(text, bytes) else text.encode()
        ids = self._tokenizer.encode(wanted.decode(errors="replace"), add_special=False)
        written = b"".join(self.tokens[token_id] for token_id in ids)
        if written == wanted:
            return ids
        if ids and written == b" " + wanted:  # SentencePiece begins a text with a space
            return [*self._greedy(self.tokens[ids[0]][1:]), *ids[1:]]
        return self._greedy(wanted)

    def _greedy(self, text: bytes) -> list[int]:
        """The longest token that fits, again and again; shorter than `text` where no token fits."""
        ids: list[int] = []
        while text:
            sizes = range(min(len(text), self._longest), 0, -1)
            size = next((size for size in sizes if text[:size] in self._id_of), None)
            if size is None:
                break
            ids.append(self._id_of[text[:size]])
            text = text[size:]
        return ids


def _native_tokenizer(tokenizer: Tokenizer, eos_ids: list[int]) -> LLTokenizer:
    vocabulary = _Vocabulary(tokenizer, [token_id for token_id in eos_ids if token_id < tokenizer.vocab_size])
    return LLTokenizer(vocabulary, eos_token=vocabulary.eos_ids)  # type: ignore[arg-type]


def _in_lark(outputs: StructuredOutputs) -> StructuredOutputs:
    """A grammar in GBNF (`root ::= ...`), as llama.cpp's and vLLM's users write it, becomes Lark."""
    if outputs.kind != "grammar" or "::=" not in outputs.text:
        return outputs
    try:
        return replace(outputs, text=gbnf_to_lark(outputs.text))
    except Exception as error:  # the converter raises Exception itself
        raise RequestError(f"the grammar is no GBNF: {_short(str(error))}", param=_PARAM) from error


def _refusal(outputs: StructuredOutputs, matcher: LLMatcher) -> RequestError:
    message = matcher.get_error()
    if not message or "NoExtension" in message:
        return RequestError(f"the {outputs.kind} allows no text at all", param=_PARAM)
    if outputs.kind != "grammar":
        message = _PLACE_IN_OUR_GRAMMAR.sub("", message)
    return RequestError(f"the {outputs.kind} cannot be enforced: {_short(message)}", param=_PARAM)


def _short(message: str) -> str:
    """The first lines of an error, without the grammar that it quotes."""
    text = message.replace("<non-verbose/>", "").split("\n   1 |")[0].strip()
    return text if len(text) <= MAX_MESSAGE_CHARS else text[:MAX_MESSAGE_CHARS] + "…"
