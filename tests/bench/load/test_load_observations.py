"""What servers and machines tell of themselves: metrics of each make, processes, energy."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from vivace.bench.load.exposition import totals
from vivace.bench.load.resources import EnergyCounter, ProcessFamily, listening_process
from vivace.bench.load.scrape import memory_parts, server_sample

# Shapes and names as each project documents them.
VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="a \\"b\\" }{"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:prefix_cache_queries_total{engine="0"} 640.0
vllm:prefix_cache_hits_total{engine="0"} 160.0 1700000000000
vllm:generation_tokens_total{engine="0"} 1.5e+03
vllm:time_to_first_token_seconds_bucket{le="0.1"} 7.0
vllm:estimated_flops_per_gpu_total NaN
"""
LLAMA_CPP = """llamacpp:prompt_tokens_total 100
llamacpp:tokens_predicted_total 50
llamacpp:requests_processing 4
llamacpp:requests_deferred 2
"""
TGI = """tgi_batch_current_size 5
tgi_queue_size 9
tgi_request_generated_tokens_sum 77
"""


def test_vllm() -> None:
    sample = server_sample(VLLM, 1.0, None, {})
    assert (sample.num_running, sample.num_waiting, sample.kv_usage) == (5, 1, 0.25)
    assert sample.counters == {
        "prefix_cache_queries_total": 640,
        "prefix_cache_hits_total": 160,
        "generation_tokens_total": 1500,
    }


def test_llama_cpp_and_tgi() -> None:
    llama_cpp, tgi = (server_sample(text, 0.0, 5.0, {"energy_joules_total": 1.0}) for text in (LLAMA_CPP, TGI))
    assert (llama_cpp.num_running, llama_cpp.num_waiting, llama_cpp.kv_usage) == (4, 2, None)
    assert llama_cpp.counters["generation_tokens_total"] == 50
    assert (tgi.num_running, tgi.num_waiting, tgi.resident_bytes) == (5, 9, 5.0)
    assert tgi.counters == {"generation_tokens_total": 77, "energy_joules_total": 1.0}


def test_vivace_tells_its_memory() -> None:
    assert memory_parts('vivace:weight_bytes{model_name="m"} 1000.0\n').weights_bytes == 1000
    assert memory_parts(VLLM).weights_bytes is None


@pytest.mark.parametrize("text", ["", "<html>nothing</html>", "name\n", "name{\n", "{} 5", "name{a=} x", "\x00 \x00"])
def test_texts_that_are_no_metrics(text: str) -> None:
    assert server_sample(text, 0.0, None, {}).num_running is None
    assert all(name in text for name in totals(text))


def test_this_process_is_found_by_its_port_and_has_memory() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert listening_process(listening.getsockname()[1]) == os.getpid()
    size = ProcessFamily(os.getpid()).resident_bytes()
    assert size is not None
    assert size > 1e6


def process(proc: Path, pid: int, parent: int, kib: int) -> Path:
    directory = proc / str(pid)
    directory.mkdir(parents=True)
    (directory / "stat").write_text(f"{pid} (a) name) S {parent} 1 1")
    (directory / "status").write_text(f"Name:\tx\nVmRSS:\t{kib} kB\n")
    return directory


def test_children_count_and_those_that_came_later(tmp_path: Path) -> None:
    process(tmp_path, 10, 1, 100)
    child = process(tmp_path, 11, 10, 20)
    process(tmp_path, 12, 1, 7000)
    family = ProcessFamily(10, tmp_path)
    assert family.resident_bytes() == 120 * 1024
    (child / "status").unlink()
    process(tmp_path, 13, 10, 3)
    assert family.resident_bytes() == 103 * 1024
    assert ProcessFamily(99, tmp_path).resident_bytes() is None


def package(powercap: Path, name: str, label: str, microjoules: int) -> Path:
    directory = powercap / name
    directory.mkdir(parents=True)
    (directory / "name").write_text(label + "\n")
    (directory / "max_energy_range_uj").write_text("10000000\n")
    energy = directory / "energy_uj"
    energy.write_text(f"{microjoules}\n")
    return energy


def test_energy_of_packages_without_their_parts_and_across_a_wrap(tmp_path: Path) -> None:
    first = package(tmp_path, "intel-rapl:0", "package-0", 9_000_000)
    second = package(tmp_path, "intel-rapl:1", "package-1", 0)
    package(tmp_path, "intel-rapl:0:0", "core", 1)
    counter = EnergyCounter(tmp_path)
    first.write_text("1000000\n")
    second.write_text("500000\n")
    assert counter.counters() == {"energy_joules_total": pytest.approx(2.5)}
    second.write_text("600000\n")
    assert counter.counters() == {"energy_joules_total": pytest.approx(2.6)}


def test_a_machine_without_energy_counters(tmp_path: Path) -> None:
    assert EnergyCounter(tmp_path / "none").counters() == {}
