"""Eight streams that run beside whatever a test sends, and what must be true of them and of the server afterwards."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from served_process import ServedProcess, eventually

NUM_STREAMS = 8
LONGEST_GAP_S = 1.0  # the promise of the server, in seconds in which it computes


def gauge(server: ServedProcess, name: str) -> float:
    """One value of /metrics, whatever its labels."""
    request = Request(server.base_url + "/metrics", headers={"Authorization": f"Bearer {server.api_key}"})
    with urlopen(request, timeout=60) as answer:
        text = answer.read().decode()
    found = re.search(rf"^vivace:{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    assert found, f"/metrics has no {name}"
    return float(found[1])


def num_used_blocks(server: ServedProcess) -> float:
    """KV blocks that some request holds: neither free nor merely cached."""
    names = ("kv_cache_num_blocks", "kv_cache_num_free_blocks", "kv_cache_num_cached_blocks")
    total, free, cached = (gauge(server, name) for name in names)
    return total - free - cached


@contextmanager
def singing(server: ServedProcess) -> Iterator[None]:
    """Canaries around a block of tests: none breaks, none repeats itself wrongly, none waits; nobody died."""
    engine_pid = server.engine_pid
    script = Path(__file__).with_name("canary_process.py")
    arguments = (server.port, server.api_key or "", NUM_STREAMS, server.pid, engine_pid)
    command = [sys.executable, str(script), *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "singing\n"
        try:
            yield
        finally:
            output, _ = process.communicate(timeout=120)
    report: dict[str, Any] = json.loads(output)
    assert not report["failures"], report
    assert report["num_answers"] >= NUM_STREAMS, report
    assert report["longest_gap_s"] < LONGEST_GAP_S, report
    assert server.engine_pid == engine_pid, "the engine was restarted"
    assert eventually(lambda: gauge(server, "num_requests_running") == 0), "requests are left"
    assert eventually(lambda: num_used_blocks(server) == 0), "blocks are left"
    assert eventually(lambda: gauge(server, "admission_worst_case_blocks") == 0), "places are left"
