"""Constraints against independent truths: enumerated languages, `re`, and a JSON schema validator."""

from __future__ import annotations

import itertools
import json
import random
import re
import unicodedata
from pathlib import Path

import jsonschema
import pytest
from constrained_text import random_text, token_ids
from random_schemas import random_schema, recursive_schema

from vivace.core.errors import RequestError
from vivace.core.structured_outputs import MAX_CHOICES, StructuredOutputs, ThinkTags
from vivace.engine.structured_output import CompiledConstraint, ConstraintCompiler
from vivace.engine.tokenizer import Tokenizer, load_tokenizer, tokenizer_from_gguf
from vivace.formats.checkpoint import open_checkpoint
from vivace.resources import embedded_model_path


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(embedded_model_path())


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> ConstraintCompiler:
    return ConstraintCompiler(tokenizer, tokenizer.eos_ids)


def language(expression: str, alphabet: str, longest: int) -> set[str]:
    """Every text of a regular expression, by trying all of them."""
    texts = ("".join(letters) for size in range(longest + 1) for letters in itertools.product(alphabet, repeat=size))
    return {text for text in texts if re.fullmatch(expression, text)}


@pytest.mark.parametrize(
    ("expression", "alphabet", "longest"),
    [
        ("[ab]{1,5}", "ab", 5),
        ("(the|then|a)( (cat|car))?", "", 0),
        ("(a|aa){2,3}b?", "ab", 7),
        ("[0-2]{2}(-[0-2])?", "012-", 4),
        ("(er|re){1,3}", "er", 6),
    ],
)
def test_masks_against_enumerated_languages(
    tokenizer: Tokenizer, compiler: ConstraintCompiler, expression: str, alphabet: str, longest: int
) -> None:
    """A token is allowed where some text of the language goes on with it; an end where the text is in it."""
    texts = language(expression, alphabet, longest) or {
        f"{word}{rest}" for word in ("the", "then", "a") for rest in ("", " cat", " car")
    }
    compiled = compiler.compile(StructuredOutputs("regex", expression))
    pieces = {token: tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)}
    generator = random.Random(7)
    for _ in range(30):
        constraint, written = compiled.begin(), b""
        while not constraint.is_complete:
            allowed = set(token_ids(constraint.allowed_tokens()))
            starts = {text.encode()[len(written) :] for text in texts if text.encode().startswith(written)}
            possible = {
                token
                for token, piece in pieces.items()
                if piece and token not in tokenizer.special_ids and any(rest.startswith(piece) for rest in starts)
            }
            ends = set(tokenizer.eos_ids) if b"" in starts else set()
            assert allowed <= possible | ends
            assert ends <= allowed
            if len({rest[:1] for rest in starts}) > 1:  # else the text is forced, as the tokenizer would write it
                assert allowed == possible | ends
            if allowed <= ends:
                break
            token = generator.choice(sorted(allowed - tokenizer.eos_ids))
            written += pieces[token]
            constraint.accept(token)
        assert written.decode() in texts or b"" in starts


@pytest.mark.parametrize("seed", range(30))
def test_random_documents_conform_to_random_schemas(
    tokenizer: Tokenizer, compiler: ConstraintCompiler, seed: int
) -> None:
    generator = random.Random(seed)
    schema = recursive_schema(generator) if seed % 5 == 4 else random_schema(generator)
    compiled = compiler.compile(StructuredOutputs.json_schema(schema))
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    num_ended = 0
    for _ in range(4):
        text, ended = random_text(tokenizer, compiled, generator)
        if ended:
            validator.validate(json.loads(text))
            num_ended += 1
    assert num_ended > 0, schema


def test_json_objects_parse(tokenizer: Tokenizer, compiler: ConstraintCompiler) -> None:
    generator = random.Random(3)
    compiled = compiler.compile(StructuredOutputs("json_object"))
    marks = frozenset(b'"{}[]:,')

    def weight(piece: bytes) -> float:
        return 50.0 if marks.issuperset(piece) else 1.0

    drawn = (random_text(tokenizer, compiled, generator, weight=weight) for _ in range(12))
    ended = [text for text, ended in drawn if ended]
    assert len(ended) > 5
    assert all(isinstance(json.loads(text), dict) for text in ended)


def _vocabularies(shared: Path) -> list[Tokenizer]:
    folder = shared / "tokenizers"
    found = [load_tokenizer(folder / "gpt2"), load_tokenizer(folder / "phi3")]
    for name in ("llama-spm", "deepseek-llm"):
        with open_checkpoint(folder / "llama.cpp-vocabs" / f"ggml-vocab-{name}.gguf") as checkpoint:
            found.append(tokenizer_from_gguf(checkpoint.metadata))
    return found


def test_every_kind_of_vocabulary(shared: Path) -> None:
    """Byte-level BPE, SentencePiece pieces with byte fallback, from directories and from GGUF files."""
    schema = {
        "type": "object",
        "properties": {
            "città": {"enum": ["Zürich", "東京", "a  b"]},
            "n": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["città", "n"],
        "additionalProperties": False,
    }
    for tokenizer in _vocabularies(shared):
        compiled = ConstraintCompiler(tokenizer, tokenizer.eos_ids).compile(StructuredOutputs.json_schema(schema))
        generator = random.Random(5)
        for _ in range(5):
            text, ended = random_text(tokenizer, compiled, generator)
            assert ended
            jsonschema.validate(json.loads(text), schema)


def follow(tokenizer: Tokenizer, compiled: CompiledConstraint, text: str) -> bool:
    """Whether every token of `text` is allowed in turn, and the text may end there."""
    constraint = compiled.begin()
    for token in tokenizer.encode(text, add_special=False):
        if token not in token_ids(constraint.allowed_tokens()):
            return False
        constraint.accept(token)
    return bool(set(token_ids(constraint.allowed_tokens())) & tokenizer.eos_ids)


@pytest.mark.parametrize("kind", ["json_object", "choice", "regex", "grammar"])
def test_thinking_may_come_first(tokenizer: Tokenizer, compiler: ConstraintCompiler, kind: str) -> None:
    text = {"json_object": "", "choice": '["{}"]', "regex": r"\{\}", "grammar": 'start: "{}"'}[kind]
    optional = compiler.compile(StructuredOutputs(kind, text, ThinkTags("<think>", "</think>")))  # type: ignore[arg-type]
    assert follow(tokenizer, optional, "{}")
    assert follow(tokenizer, optional, "<think>\nperhaps {not\n</think>\n\n{}")
    assert not follow(tokenizer, optional, "perhaps {not\n</think>\n\n{}")
    opened = compiler.compile(StructuredOutputs(kind, text, ThinkTags("", "</think>")))  # type: ignore[arg-type]
    assert follow(tokenizer, opened, "perhaps {not\n</think>\n\n{}")
    assert not follow(tokenizer, opened, "{}")


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (StructuredOutputs("regex", "("), "unclosed group"),
        (StructuredOutputs("regex", "a\\"), "lone backslash"),
        (StructuredOutputs("regex", r"(a)\1"), "backreferences are not supported"),
        (StructuredOutputs("regex", "(?=a)b"), "look-around"),
        (StructuredOutputs("regex", "a/ | start: /b"), None),
        (StructuredOutputs("json_schema", "{"), "no JSON"),
        (StructuredOutputs("json_schema", "[1]"), "must be an object"),
        (StructuredOutputs("json_schema", '{"minimum": NaN}'), "no JSON"),
        (StructuredOutputs("json_schema", "[" * 5000 + "]" * 5000), "no JSON"),
        (StructuredOutputs("json_schema", '{"type": "integer", "minimum": 3, "maximum": 2}'), "Unsatisfiable"),
        (StructuredOutputs("json_schema", '{"not": {"type": "string"}}'), '"not"'),
        (StructuredOutputs("json_schema", '{"$ref": "http://127.0.0.1/x"}'), "not present"),
        (StructuredOutputs("choice", '"yes"'), "list of texts"),
        (StructuredOutputs("choice", '["yes", ""]'), "list of texts"),
        (StructuredOutputs("grammar", "start: missing"), "unknown name"),
        (StructuredOutputs("grammar", "root ::= ((("), "no GBNF"),
        (StructuredOutputs("grammar", "root ::= " + "(" * 5000), "no GBNF"),
        (StructuredOutputs("grammar", "rule ::= x"), "no GBNF"),
        (StructuredOutputs("regex", "[^\\s\\S]"), "no text at all"),
    ],
)
def test_refusals_say_why(compiler: ConstraintCompiler, outputs: StructuredOutputs, message: str | None) -> None:
    if message is None:  # a slash stays inside the expression
        compiler.compile(outputs)
        return
    with pytest.raises(RequestError, match=message) as caught:
        compiler.compile(outputs)
    assert caught.value.param == "structured_outputs"
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("expression", ["a/b", r"a\/b", "[/]+", "a\nb", "a\\\nb", r"\d{2}/\d{2}", '"quoted"'])
def test_expressions_mean_what_re_means(tokenizer: Tokenizer, compiler: ConstraintCompiler, expression: str) -> None:
    compiled = compiler.compile(StructuredOutputs("regex", expression))
    generator = random.Random(1)
    texts = [text for text, ended in (random_text(tokenizer, compiled, generator) for _ in range(8)) if ended]
    assert texts
    assert all(re.fullmatch(expression, with_known_digits(text)) for text in texts)


def with_known_digits(text: str) -> str:
    r"""Characters that are younger than this Python's Unicode tables as 0: for llguidance some of them are a \d."""
    return "".join("0" if unicodedata.category(character) == "Cn" else character for character in text)


def test_gbnf(tokenizer: Tokenizer, compiler: ConstraintCompiler) -> None:
    text = 'root ::= "[" item ("," item)* "]"\nitem ::= [0-9]{2} | "\\"x\\"" # a comment\n'
    compiled = compiler.compile(StructuredOutputs("grammar", text))
    for written, expected in (('[12,"x",07]', True), ("[12]", True), ("[1]", False), ("[]", False)):
        assert follow(tokenizer, compiled, written) is expected
    thinking = compiler.compile(StructuredOutputs("grammar", text, ThinkTags("<think>", "</think>")))
    assert follow(tokenizer, thinking, "<think>hm</think>[12]")


def test_as_many_choices_as_may_be(tokenizer: Tokenizer, compiler: ConstraintCompiler) -> None:
    """Each is taken as it is written, metacharacters, line ends and all; what lies between two of them is not."""
    choices = [f"{number} (a|b)* [c] ^x$ \\d /\n#\u00e9" for number in range(MAX_CHOICES)]
    compiled = compiler.compile(StructuredOutputs.choice(choices))
    for number in (0, 7, MAX_CHOICES - 1):
        assert follow(tokenizer, compiled, choices[number])
        assert not follow(tokenizer, compiled, choices[number].replace("^x$", "x"))
        assert not follow(tokenizer, compiled, choices[number][:-1])


def test_a_constraint_that_was_left_fails_alone(tokenizer: Tokenizer, compiler: ConstraintCompiler) -> None:
    compiled = compiler.compile(StructuredOutputs.choice(["yes", "no"]))
    broken, whole = compiled.begin(), compiled.begin()
    broken.accept(tokenizer.encode("x", add_special=False)[0])
    assert broken.failure is not None
    assert broken.allowed_tokens() == b""
    assert not broken.is_complete
    assert whole.failure is None
    assert whole.allowed_tokens() != b""


def test_a_lexer_at_its_limit_fails_nobody_else(tokenizer: Tokenizer, compiler: ConstraintCompiler) -> None:
    """One text drives the shared lexer over its limit; the others of the same constraint go on as if alone."""
    outputs = StructuredOutputs("regex", "(.{0,5000}a.{0,5000}){100}|yes, certainly")

    def written(compiled: CompiledConstraint, generator: random.Random) -> tuple[list[int], str | None]:
        constraint, tokens = compiled.begin(), []
        for _ in range(40):
            ids = [one for one in token_ids(constraint.allowed_tokens()) if one not in tokenizer.eos_ids]
            if constraint.failure is not None or not ids:
                break
            tokens.append(generator.choice(ids))
            constraint.accept(tokens[-1])
        return tokens, constraint.failure

    shared = compiler.compile(outputs)
    alone = [written(compiler.compile(outputs), random.Random(seed)) for seed in range(4)]
    assert any(failure is not None for _, failure in alone)
    assert [written(shared, random.Random(seed)) for seed in range(4)] == alone
    assert shared.is_spent


def test_without_an_end_token_a_text_still_completes(tokenizer: Tokenizer) -> None:
    compiled = ConstraintCompiler(tokenizer, frozenset()).compile(StructuredOutputs("regex", "ab?"))
    constraint = compiled.begin()
    for character in "ab":
        assert not constraint.is_complete
        (token,) = tokenizer.encode(character, add_special=False)
        constraint.accept(token)
    assert constraint.is_complete
    assert not [token for token in token_ids(constraint.allowed_tokens()) if token < tokenizer.vocab_size]


def test_control_tokens_are_no_text(tokenizer: Tokenizer, compiler: ConstraintCompiler) -> None:
    allowed = token_ids(compiler.compile(StructuredOutputs("regex", "(?s:.*)")).begin().allowed_tokens())
    assert set(allowed) & tokenizer.special_ids == tokenizer.eos_ids


@pytest.mark.parametrize(
    "make",
    [
        lambda: StructuredOutputs("yaml", "x"),  # type: ignore[arg-type]
        lambda: StructuredOutputs("json_object", "x"),
        lambda: StructuredOutputs("regex", ""),
        lambda: StructuredOutputs("regex", "a" * 300_000),
        lambda: StructuredOutputs.choice([]),
        lambda: StructuredOutputs.choice("yes"),
        lambda: StructuredOutputs.choice([""]),
        lambda: StructuredOutputs.choice(["x"] * 5000),
        lambda: StructuredOutputs.json_schema({"minimum": float("nan")}),
        lambda: StructuredOutputs.json_schema({"const": object()}),
    ],
)
def test_values_are_checked(make: object) -> None:
    with pytest.raises(RequestError):
        make()  # type: ignore[operator]


def test_looking_ahead_leaves_no_trace_and_stops_before_the_end(
    tokenizer: Tokenizer, compiler: ConstraintCompiler
) -> None:
    """Masks behind guesses are those of a second constraint that accepted them."""
    compiled = compiler.compile(StructuredOutputs("regex", "(the sea|the ship) and the [a-z]{5}"))
    constraint, other = compiled.begin(), compiled.begin()
    text = tokenizer.encode("the sea and the whale")
    before = constraint.allowed_tokens()
    assert constraint.look_ahead(text) == len(text) - 1, "the last one ends the text"
    for count, token in enumerate(text[:-1], 1):
        other.accept(token)
        assert constraint.allowed_ahead(count) == other.allowed_tokens()
    assert constraint.allowed_tokens() == before
    assert constraint.look_ahead([text[0], *tokenizer.encode("!"), text[1]]) == 1
    for token in text:
        constraint.accept(token)
    assert constraint.is_complete
    assert constraint.failure is None
    assert constraint.look_ahead(text) == 0
