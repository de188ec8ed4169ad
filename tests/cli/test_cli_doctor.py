"""`vivace doctor`: sections, reasons, and a list of kernels that agrees with the native module."""

from __future__ import annotations

import json

import pytest
from command_run import Vivace

from vivace.backends.cpu.detect import detect
from vivace.cli.examination import KERNEL_SETS


def test_every_section_is_there(vivace: Vivace, stories: str) -> None:
    report = json.loads(vivace("doctor", stories, "--json").stdout)
    assert list(report) == ["machine", "device", "ceilings", "kernels", "operations", "choices", "memory"]
    assert report["ceilings"]["read_gb_per_s"]["value"] > 0
    assert report["choices"]["max_model_len"] == {"value": 512, "reason": "the model's own context window"}
    # 5 layers of 4 heads of 8 numbers, keys and values, four bytes each
    assert report["memory"]["kv_bytes_per_token"] == {"value": 2 * 5 * 4 * 8 * 4, "reason": "f32"}
    assert report["operations"]["attention"]["value"] == 5
    assert report["operations"]["linear f32"]["value"] == 5 * 7 + 1


def test_a_coded_cache_states_its_bytes(vivace: Vivace, stories: str) -> None:
    report = json.loads(vivace("doctor", stories, "--kv-cache-dtype", "int4_k_per_channel", "--json").stdout)
    # 5 layers of 4 heads, 8 numbers padded to 32: keys 4 bits, a scale and minimum for 16 tokens; values 4 bits,
    # a scale and minimum for each token
    expected = 5 * 4 * (32 * 4 // 8 + 32 * 4 // 16 + 32 * 4 // 8 + 4)
    assert report["memory"]["kv_bytes_per_token"] == {"value": expected, "reason": "int4_k_per_channel"}
    assert report["memory"]["kv_recent_bytes"]["value"] == 5 * 4 * 8 * 16 * 2


def test_forced_kernels_are_said_to_be_forced(vivace: Vivace, stories: str) -> None:
    kernels = json.loads(vivace("doctor", stories, "--instruction-set", "generic", "--json").stdout)["kernels"]
    assert kernels["generic"] == "used"
    forced = [name for name in detect().instruction_sets if name != "generic"]
    assert all(kernels[name]["reason"] == "--instruction-set generic was given" for name in forced)


def test_text_has_the_reasons(vivace: Vivace, stories: str) -> None:
    done = vivace("doctor", stories, "--backend", "reference")
    assert done.code == 0
    assert "written for reading" in done.stdout
    assert "the model's own context window" in done.stdout


@pytest.mark.parametrize("name", KERNEL_SETS)
def test_stated_needs_are_those_of_the_native_dispatch(name: str) -> None:
    machine = detect()
    slower = list(KERNEL_SETS)[list(KERNEL_SETS).index(name) :]
    needs = {feature for each in slower for feature in KERNEL_SETS[each]}
    assert (name in machine.instruction_sets) == (needs <= set(machine.features))
