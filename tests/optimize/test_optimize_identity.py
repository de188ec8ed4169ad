"""What is recalled of an earlier search: nothing of another question."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vivace.core.config import EngineConfig
from vivace.evaluate.task_files import read_task
from vivace.evaluate.tasks import PosedTask, pose
from vivace.optimize.preparation import Inquiry
from vivace.optimize.prompts import PromptReader
from vivace.optimize.subject import Subject, read_subject
from vivace.optimize.workload import make_workload


@pytest.fixture(scope="module")
def subject() -> Subject:
    return read_subject(EngineConfig(max_model_len=512))


def task(folder: Path, *answers: str, limit: int | None = None) -> PosedTask:
    folder.mkdir(exist_ok=True)
    path = folder / "sums.jsonl"
    records = [
        {"question": f"What is {number} + 1?", "answer": f"#### {text}"} for number, text in enumerate(answers)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return pose(read_task(str(path)), limit, 0, 0)


def test_tasks_of_one_name_and_other_questions_are_another_search(tmp_path: Path, subject: Subject) -> None:
    first, same = (Inquiry(EngineConfig(), tasks=(task(tmp_path / name, "1", "2"),)) for name in ("a", "b"))
    assert first.identity(subject, {}) == same.identity(subject, {})
    for other in (task(tmp_path / "c", "1", "3"), task(tmp_path / "d", "1", "2", limit=1)):
        assert replace(first, tasks=(other,)).identity(subject, {}) != first.identity(subject, {})


def test_a_trace_that_changed_under_its_name_is_other_traffic(tmp_path: Path, subject: Subject) -> None:
    path = tmp_path / "trace.csv"

    def digest(reader: PromptReader, output_len: int) -> str:
        rows = [f"2024-05-10 00:00:{second:02},20,{output_len}" for second in range(40)]
        path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
        return make_workload(f"trace:{path}", reader, 8, 0).digest

    assert digest(subject.reader, 5) == digest(subject.reader, 5)
    assert digest(subject.reader, 5) != digest(subject.reader, 6)
