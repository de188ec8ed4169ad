"""The journal of a long evaluation: what it keeps, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from vivace.core.errors import ConfigError
from vivace.evaluate.journal import Journal


def test_what_was_put_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, {"a": (1, 2)}) as journal:
        journal.put("one", {"nats": 0.1 + 0.2})
        journal.put("two", {"nats": 5})
    with Journal(path, {"a": (1, 2)}) as journal:
        assert journal.get("one") == {"nats": 0.1 + 0.2}
        assert journal.get("three") is None
        journal.finish()
    assert not path.exists()


@pytest.mark.parametrize("kept", range(1, 60, 7))
def test_a_cut_off_end_is_dropped(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, {"of": "this"}) as journal:
        journal.put("one", {"nats": 1})
        journal.put("two", {"nats": 2})
    path.write_bytes(path.read_bytes()[:kept])
    with Journal(path, {"of": "this"}) as journal:
        number = journal.num_finished
        journal.put("next", {"nats": 3})
    with Journal(path, {"of": "this"}) as journal:
        assert journal.num_finished == number + 1


def test_another_evaluation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(path, {"of": "this"}).close()
    with pytest.raises(ConfigError, match="another evaluation"):
        Journal(path, {"of": "that"})


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no journal\n")
    with pytest.raises(ConfigError, match="line 1"):
        Journal(tmp_path / "text", {})
    with pytest.raises(ConfigError, match="directory"):
        Journal(tmp_path, {})
    assert (tmp_path / "text").read_text() == "no journal\n"
    with Journal(tmp_path / "journal", {}) as journal:
        journal.put("one", {"nats": 1})
    content = (tmp_path / "journal").read_bytes()
    (tmp_path / "journal").write_bytes(content.replace(b'"nats":1', b'"nats":2'))
    with pytest.raises(ConfigError, match="line 2: damaged"):
        Journal(tmp_path / "journal", {})


def test_nowhere_keeps_nothing() -> None:
    journal = Journal.nowhere()
    journal.put("one", {"nats": 1})
    assert journal.get("one") is None
    journal.finish()
