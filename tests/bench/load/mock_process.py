"""`benches/mock_server.py` in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).parents[3] / "benches" / "mock_server.py"


class MockServer:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.port = int(process.stdout.readline())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def truths(self) -> list[dict[str, Any]]:
        """What the server knows of its requests, in the order in which they came."""
        with urllib.request.urlopen(f"{self.url}/truth", timeout=60) as answer:
            return json.load(answer)


@contextmanager
def mock_server(*flags: str) -> Iterator[MockServer]:
    with subprocess.Popen([sys.executable, str(PROGRAM), *flags], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield MockServer(process)
        finally:
            process.kill()


def script(**values: object) -> str:
    """The prompt that has the server do this."""
    return json.dumps(values)
