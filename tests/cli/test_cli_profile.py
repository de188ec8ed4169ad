"""`vivace profile`: its record and its table."""

from __future__ import annotations

import json

import pytest
from command_run import Vivace

SMALL = ("--streams", "3", "--prompt-len", "24", "--depth", "20", "--repeats", "2")
FIGURES = ("step_ms", "timed_ms", "python_ms", "tokens_per_s", "gb_per_s", "gop_per_s", "barrier_us")
COLUMNS = ("ms", "bytes", "gb_per_s", "share_of_ceiling")


def test_record(vivace: Vivace, stories: str) -> None:
    record = json.loads(vivace("profile", stories, *SMALL, "--json").stdout)
    assert record["model"] == stories
    assert [(one["phase"]["num_streams"], one["phase"]["num_new"]) for one in record["phases"]] == [
        (1, 1),
        (3, 1),
        (1, 24),
    ]
    for phase in record["phases"]:
        assert phase["phase"]["depth"] == 20
        assert all(phase[name] > 0 for name in FIGURES)
        assert phase["ceilings"]["read_gb_per_s"] > 0
        assert {"qkv", "o", "gate_up", "down", "lm_head", "attention", "norms"} <= {
            group["role"] for group in phase["groups"]
        }
        for group in phase["groups"]:
            assert all(group[name] > 0 for name in COLUMNS), group
            assert group["bound"] in ("memory", "f32", "bf16", "int8")
        shares = sum(group["share"] for group in phase["groups"])
        assert shares == pytest.approx(1 - phase["between_ms"] / phase["timed_ms"])
        assert "is bound by" in phase["verdict"][0]


def test_table(vivace: Vivace, stories: str) -> None:
    done = vivace("profile", stories, *SMALL)
    assert "decode, 1 stream at depth 20" in done.stdout
    assert "prefill of 24 tokens at depth 20" in done.stdout
    assert done.stdout.count("is bound by") == 3
    assert done.stdout.count("outside kernels") == 3
    assert "█" in done.stdout


def test_one_stream_has_no_batch(vivace: Vivace, stories: str) -> None:
    done = vivace(
        "profile", stories, "--streams", "1", "--prompt-len", "4", "--depth", "0", "--repeats", "1", "--json"
    )
    assert len(json.loads(done.stdout)["phases"]) == 2


def test_steps_beyond_the_context_are_refused(vivace: Vivace, stories: str) -> None:
    done = vivace("profile", stories, "--max-model-len", "40", *SMALL)
    assert done.code == 2
    assert "--max-model-len" in done.stderr
