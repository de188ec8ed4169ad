"""A real server for every test that wants one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest
from canaries import singing
from hostile_requests import HASTY, STRICT
from served_process import SMALL, ServedProcess, served

from vivace.resources import embedded_model_path

ADVICE = {"temperature": 0.0, "top_p": 0.9, "max_new_tokens": 5, "eos_token_id": 0}


@pytest.fixture(scope="session")
def server() -> Iterator[ServedProcess]:
    """`vivace serve` with the embedded model and default limits: base_url, api_key, pid, engine_pid, logs."""
    with served(*SMALL) as process:
        yield process.wait_ready()


@pytest.fixture(scope="session")
def strict() -> Iterator[ServedProcess]:
    """The same with few connections and little patience for readers (`hostile_requests.STRICT`)."""
    with served(*STRICT) as process:
        yield process.wait_ready()


@pytest.fixture(scope="session")
def hasty() -> Iterator[ServedProcess]:
    """The same with little patience for who sends. Whoever asks it stands still at his peril."""
    with served(*HASTY) as process:
        yield process.wait_ready()


@pytest.fixture(scope="session")
def advised(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    """The embedded model with other advice of its makers, and a chat template that opens think tags."""
    directory = tmp_path_factory.mktemp("models") / "thinker"
    shutil.copytree(embedded_model_path(), directory)
    (directory / "generation_config.json").write_text(json.dumps(ADVICE))
    template = json.loads((directory / "tokenizer_config.json").read_text()).get("chat_template", "")
    path = directory / "chat_template.jinja"
    template = path.read_text() if path.is_file() else template
    path.write_text(template + "{% if add_generation_prompt %}<think>{% endif %}{# up to </think> #}")
    with served(str(directory), *SMALL) as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def canaries(server: ServedProcess) -> Iterator[None]:
    """Streams that run beside every test of a module and must notice none of them."""
    with singing(server):
        yield
