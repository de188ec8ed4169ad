"""Task files of every format; what is malformed is refused with its line."""

from __future__ import annotations

import bz2
import json
from pathlib import Path

import pytest

from vivace.core.errors import ConfigError
from vivace.evaluate.task_files import read_task
from vivace.evaluate.task_items import ChoiceItem, LastWordItem, NumberItem, TaskItem

SIX_LINES = "Making tea: A man heats water. he\n2\nsings.\nleaves.\npours it over leaves.\nflies away.\n"
TEA = ChoiceItem(
    "Making tea: A man heats water. he", ("sings.", "leaves.", "pours it over leaves.", "flies away."), 2
)
ENDINGS = ["sings.", "leaves.", "pours it over leaves.", "flies away."]
COLD = ChoiceItem("Question: Which is cold?\nAnswer:", ("fire", "ice"), 1)
RECORDS: list[tuple[str, dict[str, object], TaskItem]] = [
    ("choices", {"query": "Question: Which is cold?", "choices": ["fire", "ice"], "gold": 1}, COLD),
    ("choices", {"query": "Question: Which is cold?\n", "choices": ["fire", "ice"], "gold": 1}, COLD),
    (
        "choices",
        {"query": "The dog", "choices": ["barks", "flies"], "gold": 0},
        ChoiceItem("The dog", ("barks", "flies"), 0),
    ),
    (
        "arc",
        {"question": "Which is cold?", "choices": {"text": ["fire", "ice"], "label": ["A", "B"]}, "answerKey": "B"},
        COLD,
    ),
    (
        "arc",
        {
            "question": {
                "stem": "Which is cold?",
                "choices": [{"text": "fire", "label": "1"}, {"text": "ice", "label": "2"}],
            },
            "answerKey": "2",
        },
        COLD,
    ),
    ("piqa", {"goal": "Which is cold?", "sol1": "fire", "sol2": "ice", "label": 1}, COLD),
    (
        "hellaswag",
        {
            "activity_label": "Making tea",
            "ctx_a": "A man heats water.",
            "ctx_b": "he",
            "ctx": "A man heats water. he",
            "endings": ENDINGS,
            "label": "2",
        },
        ChoiceItem("Making tea: A man heats water. He", tuple(ENDINGS), 2),
    ),
    (
        "hellaswag",
        {"ctx": "How to rest [header] [title] Sit  down", "endings": ["[step] Sit.", "Run."], "label": 0},
        ChoiceItem("How to rest [header]. Sit down".replace(" [header]", " "), ("Sit.".rjust(5), "Run."), 0),
    ),
    ("lambada", {"text": "He put on his coat"}, LastWordItem("He put on his", "coat")),
    (
        "gsm8k",
        {"question": "3 + 4?", "answer": "It is 1,007.\n#### 1,007"},
        NumberItem("Question: 3 + 4?\nAnswer:", "It is 1,007.\n#### 1,007", "1007"),
    ),
]


@pytest.mark.parametrize(("format_name", "record", "item"), RECORDS)
def test_formats_are_recognised(format_name: str, record: dict[str, object], item: TaskItem, tmp_path: Path) -> None:
    path = tmp_path / "some.task.jsonl"
    path.write_text("\n" + json.dumps(record) + "\n\n")
    task = read_task(str(path))
    assert (task.name, task.format, task.items) == ("some", format_name, [item])
    assert read_task(f"{format_name}:{path}") == task


@pytest.mark.parametrize("packed", [False, True])
def test_six_lines(packed: bool, tmp_path: Path) -> None:
    path = tmp_path / "hellaswag.txt"
    content = (SIX_LINES * 2).encode()
    path.write_bytes(bz2.compress(content) if packed else content)
    task = read_task(str(path))
    assert (task.format, task.items) == ("hellaswag", [TEA, TEA])


def test_real_files(shared: Path) -> None:
    sizes = {
        "hellaswag_val_full.txt.bz2": ("hellaswag", 10_042),
        "arc_easy.jsonl": ("choices", 2376),
        "arc_challenge.jsonl": ("choices", 1172),
        "piqa.jsonl": ("choices", 1838),
        "lambada_test.jsonl": ("lambada", 5153),
        "gsm8k_test.jsonl": ("gsm8k", 1319),
    }
    for name, (format_name, count) in sizes.items():
        task = read_task(str(shared / "eval" / name))
        assert (task.format, len(task.items)) == (format_name, count)


GOOD = json.dumps({"query": "Question: a?", "choices": ["b", "c"], "gold": 0})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("\n \n", "empty"),
        (GOOD + "\n{", "line 2: no JSON"),
        (GOOD + "\n[1]", "line 2: a JSON object"),
        (GOOD + "\n" + "[" * 100_000, "line 2"),
        (GOOD + '\n\n{"query": "a", "choices": ["b", "c"], "gold": 2}', "line 3.*'gold'.*0 to 1"),
        (GOOD + '\n{"query": "a", "choices": ["b", "c"], "gold": true}', "line 2.*'gold'"),
        (GOOD + '\n{"query": "a", "choices": ["b"], "gold": 0}', "line 2.*'choices'"),
        (GOOD + '\n{"query": "a", "choices": ["b", " "], "gold": 0}', "line 2.*'choices'"),
        (GOOD + '\n{"query": 5, "choices": ["b", "c"], "gold": 0}', "line 2.*'query'"),
        (GOOD + '\n{"text": "a b"}', "line 2.*'query'"),
        ('{"text": "word"}', "line 1.*two words"),
        ('{"question": "a", "answer": "b"}', "line 1.*no number"),
        ('{"question": "a", "choices": {"text": ["b", "c"], "label": ["A", "B"]}, "answerKey": "C"}', "'answerKey'"),
        ('{"question": {}, "choices": 4, "answerKey": "C"}', "'question'"),
        ('{"question": "a", "choices": 4, "answerKey": "C"}', "'choices'"),
        ('{"other": 1}', "line 1: not the fields of a known task.*FORMAT"),
        (SIX_LINES + "context\n3\na\nb\nc\n", "line 12: .*six lines"),
        (SIX_LINES.replace("leaves.\n", "\n", 1), "line 4: .*six lines"),
        (SIX_LINES + SIX_LINES.replace("\n2\n", "\n4\n"), "line 8: .*0 to 3"),
    ],
)
def test_malformed_files_are_refused_with_the_line(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_task(str(path))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_task(str(tmp_path / "none.jsonl"))
    (tmp_path / "bytes").write_bytes(b'{"text": "a b"}\n\xff')
    with pytest.raises(ConfigError, match="line 2: not UTF-8"):
        read_task(str(tmp_path / "bytes"))
    whole = bz2.compress(SIX_LINES.encode() * 50)
    for name, content in (("cut", whole[:-20]), ("damaged", whole[:30] + b"\0\0\0" + whole[33:])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=name):
            read_task(str(tmp_path / name))
    (tmp_path / "text.txt").write_text(SIX_LINES)
    with pytest.raises(ConfigError, match="JSON object a line"):
        read_task(f"gsm8k:{tmp_path / 'text.txt'}")
