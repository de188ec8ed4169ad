"""Commands that documents show exist, links lead somewhere, and .ci/run finds the commands that it runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_tree import commands, flags
from source_tree import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCED = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)[^)]*\)")
MARKED = re.compile(r"^<!-- (run|test) -->\n```sh\n(.+?)\n```$", re.MULTILINE | re.DOTALL)


def _vivace_commands() -> Iterator[tuple[str, list[str]]]:
    """(document, words after `vivace`) of every fenced line that runs it; `&&` and `|` separate commands."""
    for document in DOCUMENTS:
        for block in FENCED.findall(document.read_text()):
            for line in re.split(r"\n|&&|\|", block.replace("\\\n", " ")):
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words and Path(words[0]).name == "vivace":
                    yield document.name, words[1:]


@pytest.mark.parametrize(("document", "words"), list(_vivace_commands()), ids=lambda value: str(value)[:60])
def test_commands_in_documents_parse(document: str, words: list[str]) -> None:
    tree = commands()
    name = next((name for name in (" ".join(words[:2]), words[0]) if name in tree), None)
    assert name is not None, f"{document}: there is no command {words[:2]}"
    known = flags(tree[name])
    used = [word.partition("=")[0] for word in words if word.startswith("--")]
    assert set(used) <= {*known, "--help"}, f"{document}: vivace {name} has no {set(used) - set(known)}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    missing = [link for link in LINK.findall(document.read_text()) if not (document.parent / link).exists()]
    assert not missing


def test_readme_marks_one_run_and_one_test_command() -> None:
    assert [kind for kind, _ in MARKED.findall((ROOT / "README.md").read_text())] == ["run", "test"]


def test_documents_name_no_path_of_a_machine() -> None:
    private = re.compile(r"(?<![\w.])/(?:home|root|work|Users)/")
    assert not [document.name for document in DOCUMENTS if private.search(document.read_text())]
