"""Schemathesis against our own document, on a real server: every check, valid and invalid data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from served_process import SMALL, served

SEED = 20261122
FOLDER = Path(__file__).parent / "conformance"
DEADLINE_S = 600.0
SHORT = ("--max-model-len", "40")  # an answer without max_tokens ends soon


def test_document_holds(tmp_path: Path) -> None:
    with served(*SMALL, *SHORT) as server:
        server.wait_ready()
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(FOLDER / "schemathesis.toml")),
            *("run", f"{server.base_url}/openapi.json", "--header", f"Authorization: Bearer {server.api_key}"),
            *(
                "--checks",
                "all",
                "--mode",
                "all",
                "--phases",
                "coverage,fuzzing",
                "--seed",
                str(SEED),
                "--max-examples",
                "25",
            ),
            *("--workers", "4", "--no-shrink", "--continue-on-failure", "--no-color"),
        ]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": str(FOLDER / "refusals.py")},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
