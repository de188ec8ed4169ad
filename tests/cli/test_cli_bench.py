"""`vivace bench`: the promised figures, for a checkpoint and for random weights of a shape."""

from __future__ import annotations

import json
from pathlib import Path

from command_run import Vivace

FIGURES = ("prefill_tokens_per_s", "decode_tokens_per_s", "ttft_ms", "itl_ms", "tpot_ms", "decode_gb_per_s")
SMALL = ("--prompt-len", "24", "--output-len", "4", "--warm-up", "0", "--repeats", "2")


def test_latency_of_two_batch_sizes(vivace: Vivace, stories: str) -> None:
    done = vivace("bench", "latency", stories, *SMALL, "--batch-size", "1", "--batch-size", "3", "--json")
    record = json.loads(done.stdout)
    assert [result["batch_size"] for result in record["results"]] == [1, 3]
    for result in (record, *record["results"]):
        assert all(result[name] > 0 for name in FIGURES)
        assert (result["prompt_len"], result["output_len"], result["repeats"]) == (24, 4, 2)
        assert result["ceilings"]["read_gb_per_s"] > 0
        assert result["spread"]["itl_ms"]["count"] == result["num_requests"] * 3 * 2
        assert result["spread"]["ttft_ms"]["minimum"] <= result["ttft_ms"] <= result["spread"]["ttft_ms"]["maximum"]


def test_throughput_of_random_weights_in_int4(vivace: Vivace, tmp_path: Path, stories: str) -> None:
    config = json.loads((Path(stories) / "config.json").read_text())
    config |= {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 300}
    (tmp_path / "config.json").write_text(json.dumps(config))
    dummy = ("--load-format", "dummy", "--config", str(tmp_path / "config.json"), "--quantization", "int4")
    done = vivace("bench", "throughput", *dummy, *SMALL, "--num-requests", "5", "--json")
    record = json.loads(done.stdout)
    assert record["layout"] == "q4_0"
    assert record["requests_per_s"] > 0


def test_text_sets_figures_beside_ceilings(vivace: Vivace, stories: str) -> None:
    done = vivace("bench", "latency", stories, *SMALL)
    assert "TTFT ms" in done.stdout
    assert "that this machine reads" in done.stdout


def test_one_token_has_no_decode(vivace: Vivace, stories: str) -> None:
    done = vivace("bench", "latency", stories, "--prompt-len", "8", "--output-len", "1", "--repeats", "1", "--json")
    record = json.loads(done.stdout)
    assert record["decode_tokens_per_s"] is None
    assert record["itl_ms"] is None


def test_a_workload_beyond_the_context_is_refused(vivace: Vivace, stories: str) -> None:
    done = vivace("bench", "latency", stories, "--prompt-len", "500", "--output-len", "100")
    assert done.code == 2
    assert "600" in done.stderr
