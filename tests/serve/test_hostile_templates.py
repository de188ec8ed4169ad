"""A model's chat template may try anything: it is refused within its budget, and canaries notice nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import httpx
import pytest
from canaries import singing
from served_process import SMALL, ServedProcess, served

from vivace.resources import embedded_model_path

# Each one is reached by a message that names it.
ATTACKS = {
    "attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "loop": "{% for i in range(10**9) %}x{% endfor %}",
    "nested loops": "{% for i in range(50000) %}{% for j in range(50000) %}{% endfor %}{% endfor %}",
    "string": "{{ 'x' * 10**9 }}",
    "format": "{{ '%1000000000d' % 1 }}",
    "list": "{{ [0] * 10**9 }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "refusal": "{{ raise_exception('no such turn') }}",
}
ORDINARY = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    """The embedded model with a template that attacks when a message asks for it."""
    folder = tmp_path_factory.mktemp("hostile") / "model"
    shutil.copytree(embedded_model_path(), folder)
    branches = "".join(f"{{% elif messages[0]['content'] == '{name}' %}}{attack}" for name, attack in ATTACKS.items())
    template = f"{{% if false %}}{branches}{{% else %}}{ORDINARY}{{% endif %}}"
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    with served(str(folder), *SMALL) as process:
        process.wait_ready()
        with singing(process):
            yield process


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused(hostile: ServedProcess, name: str) -> None:
    answer = ask(hostile, name)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_ordinary_messages_are_answered(hostile: ServedProcess) -> None:
    assert ask(hostile, "The sea").status_code == 200


def ask(server: ServedProcess, content: str) -> httpx.Response:
    fields = {"messages": [{"role": "user", "content": content}], "max_tokens": 4}
    headers = {"Authorization": f"Bearer {server.api_key}"}
    return httpx.post(server.base_url + "/v1/chat/completions", json=fields, headers=headers, timeout=60)
