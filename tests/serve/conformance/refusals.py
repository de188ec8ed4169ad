"""Loaded by schemathesis: what a request that fits its schema may still be refused for, and nothing else."""

from __future__ import annotations

import ast
import threading
from functools import wraps

import schemathesis

RULES = {
    "context_length_exceeded": None,  # whatever is too long for the model
    "template_error": None,  # the model's own template objects to this order of messages
    "invalid_value": {
        # one field depends on another
        "best_of",
        "continue_final_message",
        "max_tokens",
        "min_tokens",
        "stream_options",
        "tool_choice",
        "top_logprobs",
        # free JSON with rules of its own
        "chat_template_kwargs",
        "reasoning_effort",
        "response_format",
        "structured_outputs",
        "text",
        "tools",
        # texts in languages of their own, and one of these fields at a time
        "guided_choice",
        "guided_grammar",
        "guided_json",
        "guided_regex",
        # keys that are token ids
        "logit_bias",
        # items whose fields depend on their type
        "input",
        "messages",
    },
}

# Before Python 3.11.8 two threads that parse at once share one count of depths (CPython's gh-106905): a `SystemError`
# about a "recursion depth mismatch". Hypothesis parses sources to name strategies, in each of our workers.
parse_alone = threading.Lock()
parse_beside_others = ast.parse


@wraps(parse_beside_others)
def parse(*arguments, **options):
    with parse_alone:
        return parse_beside_others(*arguments, **options)


ast.parse = parse


@schemathesis.check
def refuses_valid_data_by_a_rule(ctx, response, case):
    """A 400 to schema-valid data names a rule that a schema cannot say."""
    del ctx
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code != 400:
        return
    error = response.json()["error"]
    params = RULES.get(error["code"], set())
    name = (error["param"] or "").partition(".")[0].partition("[")[0]
    assert params is None or name in params, f"refused, but the schema allows it: {error}"
