"""Constraints as text in llguidance's Lark: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md.

No library is needed here: this only writes grammars.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from vivace.core.errors import RequestError
from vivace.core.structured_outputs import StructuredOutputs, ThinkTags

# White space only where it is usual: free white space lets a weak model write nothing else until its tokens are out.
_ON_ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}

TokenId = Callable[[str], int | None]  # id of a control token by its name; None where the name is plain text


def lark_grammar(outputs: StructuredOutputs, token_id: TokenId) -> str:
    """What llguidance compiles: Lark text, or the JSON of several grammars. Raises `RequestError`."""
    if outputs.think is None:
        return outputs.text if outputs.kind == "grammar" else f"start: {rule_body(outputs)}\n"
    if outputs.kind == "grammar":
        start = _with_thinking(outputs.think, "@answer", token_id)
        return json.dumps({"grammars": [{"lark_grammar": start}, {"name": "answer", "lark_grammar": outputs.text}]})
    return _with_thinking(outputs.think, "answer", token_id) + f"answer: {rule_body(outputs)}\n"


def rule_body(outputs: StructuredOutputs) -> str:
    """The right side of a rule for everything but a whole grammar. Raises `RequestError`."""
    match outputs.kind:
        case "json_object":
            return json_rule({"type": "object"})
        case "json_schema":
            return json_rule(_schema(outputs.text))
        case "regex":
            return _regex(outputs.text)
        case "choice":
            # One lexeme: of as many rules side by side, llguidance's parser takes 1,000.
            return _regex("|".join(re.escape(choice) for choice in dict.fromkeys(_choices(outputs.text))))
        case "grammar":
            raise RequestError(
                "a grammar is complete: it cannot stand inside another one", param="structured_outputs"
            )


def json_rule(schema: Mapping[str, Any], *, lenient: bool = False) -> str:
    """JSON on one line that conforms to `schema`. `lenient`: keywords that cannot be enforced are passed over."""
    options = {**_ON_ONE_LINE, **({"lenient": True} if lenient else {})}
    own = {key: value for key, value in schema.items() if key != "x-guidance"}
    return f"%json {json.dumps({**own, 'x-guidance': options}, ensure_ascii=False)}"


def literal(text: str) -> str:
    """Exactly `text`; nothing where it is empty."""
    return json.dumps(text, ensure_ascii=False) if text else ""


def marker(text: str, token_id: TokenId) -> str:
    """Exactly `text`: as the control token of that name where there is one, else letter by letter."""
    found = token_id(text)
    return literal(text) if found is None else f"<[{found}]>"


def _with_thinking(think: ThinkTags, answer: str, token_id: TokenId) -> str:
    """A rule `start` with free text up to the closing tag before `answer`."""
    if token_id(think.end) is not None:
        rules = f"thought: /(?s:.*)/ {marker(think.end, token_id)}\n"
    else:
        rules = f"thought[lazy]: /(?s:.*)/ {literal(think.end)}\n"
    if think.start:
        start = f"start: ({marker(think.start, token_id)} thought blanks)? {answer}\n"
    else:
        start = f"start: thought blanks {answer}\n"
    return f"{start}{rules}blanks: /[ \\n]{{0,4}}/\n"


def _regex(expression: str) -> str:
    """The expression between slashes; a slash or a line end inside is escaped."""
    escaped: list[str] = []
    pairs = iter(expression)
    for character in pairs:
        if character == "\\":
            follower = next(pairs, None)
            if follower is None:
                raise RequestError("the regular expression ends in a lone backslash", param="structured_outputs")
            escaped.append(character + {"\n": "n", "\r": "r"}.get(follower, follower))
        else:
            escaped.append({"/": "\\/", "\n": "\\n", "\r": "\\r"}.get(character, character))
    return f"/{''.join(escaped)}/"


def _schema(text: str) -> Mapping[str, Any]:
    schema = _json(text, "schema")
    if schema is True:
        return {}
    if not isinstance(schema, Mapping):
        raise RequestError("a JSON schema must be an object", param="structured_outputs")
    return schema


def _choices(text: str) -> list[str]:
    choices = _json(text, "choice")
    if not isinstance(choices, list) or not all(isinstance(one, str) and one for one in choices) or not choices:
        raise RequestError("choice must be a list of texts, none of them empty", param="structured_outputs")
    return choices


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the {what} is no JSON: {error}", param="structured_outputs") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")
