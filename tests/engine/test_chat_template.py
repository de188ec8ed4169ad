"""Chat templates: the text that transformers renders, and hostile templates refused within a budget."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from vivace.core.errors import RequestError, TemplateError
from vivace.engine.chat_template import render_chat

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather <b>now</b> é",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "City"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Bern"}}}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "user": [{"role": "user", "content": "  Hello <there> & 'you' "}],
    "system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    "turns": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "How?\n\n"},
    ],
    "thoughts": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello!"},
        {"role": "user", "content": "ok"},
    ],
    "tool": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "name": "get_weather", "tool_call_id": "abcdefghi", "content": "12 °C"},
        {"role": "assistant", "content": "It is 12."},
        {"role": "user", "content": "thanks"},
    ],
}
TEMPLATES = [
    "HuggingFaceTB-SmolLM3-3B",
    "Qwen-Qwen2.5-7B-Instruct",
    "Qwen-Qwen3-0.6B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "google-gemma-2-2b-it",
    "ibm-granite-granite-3.3-2B-Instruct",
    "meta-llama-Llama-3.1-8B-Instruct",
    "meta-llama-Llama-3.2-3B-Instruct",
    "microsoft-Phi-3.5-mini-instruct",
    "mistralai-Mistral-Nemo-Instruct-2407",
]
MESSAGES = CONVERSATIONS["user"]

# Work or text without end, deep nesting, ways out of the sandbox, files.
HOSTILE = [
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{{ 'x' * 10**9 }}",
    "{{ 'x' * 1000000000 }}",
    "{{ [0]*1000000000 }}",
    "{% set ns=namespace(a=3) %}{% for i in range(100) %}{% set ns.a=ns.a*ns.a %}{% endfor %}{{ns.a}}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '%*d' % (1000000000,1) }}",
    "{{ '{:{}}'.format(1,1000000000) }}",
    "{{ ('%(a)s'*100000) % {'a':'x'*100000} }}",
    "{{ 'x'.center(1000000000) }}",
    "{{ 'x'|center(1000000000) }}",
    "{{ 'x'.ljust(999999999) }}",
    "{{ 'x'.zfill(1000000000) }}",
    "{{ ('\n'*1000000)|indent(9999) }}",
    "{% set ns=namespace(a='x') %}{% for i in range(64) %}{% set ns.a=ns.a ~ ns.a %}{% endfor %}{{ns.a}}",
    "{% set ns=namespace(a='x') %}{% for i in range(64) %}{% set ns.a=ns.a + ns.a %}{% endfor %}{{ns.a}}",
    "{% set ns=namespace(a='x') %}{% for i in range(64) %}{% set ns.a=[ns.a, ns.a] %}{% endfor %}{{ns.a}}",
    "{% set ns=namespace(a='x',b='x') %}{% for i in range(64) %}{% set ns.a=[ns.a, ns.a] %}"
    "{% set ns.b=[ns.b, ns.b] %}{% endfor %}{{ns.a==ns.b}}",
    "{% set ns=namespace(a='x') %}{% for i in range(64) %}{% set ns.a=(ns.a, ns.a) %}{% endfor %}{{ {ns.a:1} }}",
    "{% set ns=namespace(a='x') %}{% for i in range(64) %}"
    "{% set ns.a=dict(a=ns.a, b=ns.a) %}{% endfor %}{{ns.a|tojson}}",
    "{% macro f(n) %}{{ f(n+1) }}{% endmacro %}{{ f(0) }}",
    "{% macro f(n) %}{% if n %}{% set a=f(n-1) %}{% set b=f(n-1) %}{% endif %}{% endmacro %}{{ f(100) }}",
    "{% for x in [1,2] recursive %}{{ loop([1,2]) }}{% endfor %}",
    "{% macro f() %}" + "x" * 100000 + "{% endmacro %}{% for i in range(100000) %}{% set a=f() %}{% endfor %}",
    "{% for i in range(100000) %}{% set a %}" + "x" * 100000 + "{% endset %}{% endfor %}",
    "{{ ('x'*100000).replace('x','y'*100000) }}",
    "{{ ('x'*100000)|replace('x','y'*100000) }}",
    "{{ (['x'*100000]*100000)|join }}",
    "{{ ''.join(['x'*100000]*100000) }}",
    "{{ ('x'*100000).join('y'*100000) }}",
    "{{ ('y'*100000)|join('x'*100000) }}",
    "{{ lipsum(n=100000000) }}",
    "{{ (5).to_bytes(1000000000) }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ ''|attr('__class__') }}",
    "{{ messages.append(1) }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ dict.__base__.__subclasses__() }}",
    "{{ messages|map('attr','__class__')|list }}",
    "{{ namespace(__class__=1) }}",
    "{% set ns=namespace() %}{% set ns._x = 1 %}{{ns._x}}",
    "{{ messages|sort(attribute='__class__.__mro__') }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as o %}",
    "{% extends 'x' %}",
    "{{ strftime_now('%1000000000d') }}",
    "{{ ('\t'*100000).expandtabs(9999) }}",
    "{% set s='x'*1000000 %}{% for i in range(100000) %}{% set a=s[1:] %}{% endfor %}",
    "{% set s='x,'*1000000 %}{% for i in range(100000) %}{% set a=s.split(',') %}{% endfor %}",
    "{% set s=range(100000)|list %}{% for i in range(100000) %}{% if -1 in s %}{% endif %}{% endfor %}",
    "{% set s=range(100000)|list %}{% for i in range(100000) %}{% if -1 is in s %}{% endif %}{% endfor %}",
    "{{ messages|tojson(indent=1000000000) }}",
    "{{ range(100000)|list|tojson(indent=9999) }}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "{% for a in [1] %}" * 3000 + "{% endfor %}" * 3000,
    "{% for a in range(100000) %}" * 15 + "x" + "{% endfor %}" * 15,
    "{{ " + "not " * 30000 + "1 }}",
    "{{ " + "-" * 100000 + "1 }}",
    "{{ " + "9" * 100000 + " }}",
    "{{ '" + "a" * 200000,
    "{{" * 100000,
    "{#" * 100000,
    "{% raw %}" * 20000,
    "{%- " * 50000,
    " " * 250000 + "{% if 1 %}",
    "\n " * 100000 + "{%",
    "{{ {'a':1}.fromkeys(range(100000)|list*100,'x') }}",
    "{{ cycler(1,2).next() }}",
    "{{ ('x'*10000000)|list|length }}",
    "{% for i in range(1000) %}{% set a=(range(100000)|unique|list) %}{% endfor %}",
    "{{ 1.5|round(100000000,'ceil') }}",
    "{{ ('a '*8000000)|wordcount }}",
    "{% set a='x'*4000000 %}{% set b='x'*4000000 %}{% for i in range(100000) %}{% if a==b %}{%endif%}{% endfor %}",
    "{% set s=range(100000)|list %}{% for i in range(100000) %}{% set a=s[::-1] %}{% endfor %}",
    "{{ ('a '*7000000).split()|length }}",
    "{% set s='x'*4000000 %}{% for i in range(100000) %}{% set a=s.partition('xy') %}{% endfor %}",
    "{{ ('ab'*4000000).strip('b'*4000000+'a') }}",
    "{% set s='x'*4000000 %}{% for i in range(100000) %}{% set a=s.count('xy') %}{% endfor %}",
    "{{ ''.join.__call__(['a']) }}",
    "{{ (['x'*1000]*1000)|map('replace','x','y'*1000)|list|length }}",
]
HARMLESS = [
    ("{{ range.__self__ }}{{ raise_exception.__globals__ }}{{ self._TemplateReference__context }}", ""),
    ("{{ '%s' % messages.__class__ }}", ""),
    ("{{ messages|selectattr('__class__')|list }}", "[]"),
    ("{% generation %}a{% endgeneration %}{{ {'é': '<'}|tojson }}", 'a{"é": "<"}'),
    (
        "{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ loop.index }}{{ loop.last }}{% endfor %}",
        "1False2False3False",
    ),
    ("{{ '{:>4}|{}'.format(1, 'x') }}{{ '%03d' % 7 }}{{ 'abc'[1:] }}{{ 2 ** 8 }}{{ 'a' ~ 1 }}", "   1|x007bc256a1"),
    ("{{ {'a': 1}.items() | list }}{{ [3, 1] | sort }}{{ (1, 2) }}", "[('a', 1)][1, 3](1, 2)"),
]


@pytest.mark.parametrize("name", TEMPLATES)
def test_published_templates_render_as_transformers_does(shared: Path, name: str) -> None:
    template = (shared / "tokenizers/chat_templates" / f"{name}.jinja").read_text()
    num_compared = 0
    for messages, tools, prompt in itertools.product(CONVERSATIONS.values(), (None, [WEATHER]), (True, False)):
        options: dict[str, Any] = {"tools": tools, "add_generation_prompt": prompt}
        try:
            [expected], _ = render_jinja_template([messages], chat_template=template, **options, **SPECIAL)
        except Exception:  # the template refuses: no system role, alternation, ...
            with pytest.raises(TemplateError):
                render_chat(template, messages, special_tokens=SPECIAL, **options)
            continue
        assert render_chat(template, messages, special_tokens=SPECIAL, **options) == expected
        num_compared += 1
    assert num_compared >= 8


@pytest.mark.parametrize("index", range(len(HOSTILE)))
def test_hostile_templates_are_refused(index: int) -> None:
    # Each would take hours, gigabytes or an interpreter without the budget: beyond the time-out of a test.
    with pytest.raises(TemplateError):
        render_chat(HOSTILE[index], MESSAGES)


@pytest.mark.parametrize(("template", "expected"), HARMLESS)
def test_ordinary_expressions(template: str, expected: str) -> None:
    assert render_chat(template, MESSAGES) == expected


def test_thousands_of_messages_stay_within_the_budget(shared: Path) -> None:
    template = (shared / "tokenizers/chat_templates/meta-llama-Llama-3.1-8B-Instruct.jinja").read_text()
    messages = [{"role": role, "content": "text " * 100} for role in ("user", "assistant")] * 1_000
    assert render_chat(template, messages).count("text") == 200_000
    long = [{"role": "user", "content": "x" * (4 << 20)}]
    assert "x" * (4 << 20) in render_chat(template, long)


def test_templates_raise_their_own_message() -> None:
    with pytest.raises(TemplateError, match="roles must alternate"):
        render_chat("{{ raise_exception('roles must alternate') }}", MESSAGES)
    with pytest.raises(TemplateError, match="line 2"):
        render_chat("\n{% if %}", MESSAGES)


def test_variables_are_those_that_the_template_reads() -> None:
    template = "{{ enable_thinking }}{{ bos_token }}{{ messages[0].role }}"
    assert render_chat(template, MESSAGES, enable_thinking=True, special_tokens=SPECIAL) == "True<s>user"
    for name in ("bos_token", "unknown", "raise_exception", "range"):
        with pytest.raises(RequestError, match=name):
            render_chat(template, MESSAGES, **{name: 1})


def test_messages_are_plain_data() -> None:
    nested: list[Any] = []
    for _ in range(100):
        nested = [nested]
    for content in (object(), nested, "a\ud800", {1, 2}, b"x"):
        with pytest.raises(RequestError):
            render_chat("{{ messages }}", [{"role": "user", "content": content}])
