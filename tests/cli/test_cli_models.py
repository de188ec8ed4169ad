"""`vivace models` lists what the package carries and prints its cards."""

from __future__ import annotations

import json
from pathlib import Path

from command_run import Vivace

from vivace.resources import KINDS, resource

NAMES = ["embedded", "embedded-draft", "embedded-medusa"]


def test_list(vivace: Vivace) -> None:
    done = vivace("models")
    assert done.code == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == NAMES
    assert all(line.endswith("Apache-2.0.") and " MB " in line for line in done.stdout.splitlines())


def test_json_gives_sizes_and_paths(vivace: Vivace) -> None:
    records = [json.loads(line) for line in vivace("models", "--json").stdout.splitlines()]
    assert {record["name"]: record["kind"] for record in records} == KINDS
    for record in records:
        assert record["bytes"] == sum(file.stat().st_size for file in Path(record["path"]).iterdir())
        assert record["summary"]


def test_show_prints_the_card(vivace: Vivace) -> None:
    for name in NAMES:
        assert vivace("models", "show", name).stdout == resource(name).card + "\n"
    record = json.loads(vivace("models", "show", "embedded", "--json").stdout)
    assert record["card"] == resource("embedded").card


def test_mistakes(vivace: Vivace) -> None:
    unknown = vivace("models", "show", "embeded")
    assert unknown.code == 2
    assert "embedded-draft" in unknown.stderr
    assert vivace("models", "delete").code == 2


def test_names_work_where_a_model_is_wanted(vivace: Vivace, tmp_path: Path, monkeypatch) -> None:
    by_default = vivace("tokenize", "--prompt", "The sea").stdout
    assert vivace("tokenize", "embedded", "--prompt", "The sea").stdout == by_default
    assert vivace("tokenize", "embedded-draft", "--prompt", "The sea").stdout == by_default
    (tmp_path / "embedded").mkdir()  # a folder of that name is meant, once there is one
    monkeypatch.chdir(tmp_path)
    assert vivace("tokenize", "embedded", "--prompt", "The sea").code == 2
    assert vivace("tokenize", "embedded-medusa", "--prompt", "The sea").code == 2
