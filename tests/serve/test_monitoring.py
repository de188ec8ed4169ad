"""The dashboard, the alerts and /metrics belong together: promtool and a real Prometheus say so."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from served_process import API_KEY, ServedProcess

FOLDER = Path(__file__).parents[2] / "monitoring"
KEY = {"Authorization": f"Bearer {API_KEY}"}
DEADLINE_S = 60.0
VARIABLES = {"$__rate_interval": "1m", "$model": ".*", "$instance": ".*", "$job": ".*"}
NAME = re.compile(r"\b(?:vivace:[a-z_0-9]+|process_[a-z_]+)\b")
LISTENING = re.compile(r'msg="Listening on" address=(\S+)')
ONLY_WITH_SPECULATION = {"vivace:spec_decode_num_accepted_tokens_per_pos_total", "vivace:spec_decode_choices_total"}


def dashboard() -> dict[str, Any]:
    return dict(json.loads((FOLDER / "grafana-dashboard.json").read_text()))


def queries() -> list[str]:
    """Of every panel and mark, with its variables filled in."""
    board = dashboard()
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    found += [mark["expr"] for mark in board["annotations"]["list"]]
    for name, value in VARIABLES.items():
        found = [query.replace(name, value) for query in found]
    return found


def promtool(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("there is no promtool")
    return subprocess.run([tool, *arguments], input=given, capture_output=True, text=True, cwd=FOLDER, timeout=120)


@pytest.fixture(scope="module")
def metrics(server: ServedProcess) -> str:
    ask(server)
    return httpx.get(f"{server.base_url}/metrics", headers=KEY, timeout=DEADLINE_S).text


def ask(server: ServedProcess) -> None:
    """A request that generates, one after the prefix of which the cache holds, and one that is wrong."""
    asked = {"prompt": "Once upon a time there was a little girl. " * 4, "max_tokens": 4, "ignore_eos": True}
    for _ in range(2):
        answer = httpx.post(f"{server.base_url}/v1/completions", json=asked, headers=KEY, timeout=DEADLINE_S)
        assert answer.status_code == 200
    assert httpx.get(f"{server.base_url}/nowhere", headers=KEY, timeout=DEADLINE_S).status_code == 404


def test_promtool_accepts_rules_and_configuration() -> None:
    for arguments in (("check", "rules", "alerts.yml"), ("check", "config", "prometheus.yml")):
        done = promtool(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_when_they_should() -> None:
    done = promtool("test", "rules", "alerts_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_metrics(metrics: str) -> None:
    """Its one remark is about the colon of our prefix, which the field's dashboards expect of a server like this."""
    complaints = promtool("check", "metrics", given=metrics).stderr.splitlines()
    assert [line for line in complaints if not line.endswith("metric names should not contain ':'")] == []


def test_every_metric_that_is_named_exists(metrics: str) -> None:
    families = text_string_to_metric_families(metrics)
    names = {sample.name for family in families for sample in family.samples} | ONLY_WITH_SPECULATION
    for source in (*queries(), (FOLDER / "alerts.yml").read_text(), (FOLDER / "alerts_test.yml").read_text()):
        assert set(NAME.findall(source)) <= names


def test_panels_are_whole() -> None:
    board = dashboard()
    rows = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    assert rows[1:] == ["Traffic", "Latency", "KV cache", "Prefix cache", "Speculation", "Admission", "Process"]
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in panels:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert all(target["legendFormat"] for target in panel["targets"])
    variables = {variable["name"] for variable in board["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]+)", json.dumps(board))) <= variables


@contextmanager
def prometheus(server: ServedProcess, folder: Path) -> Iterator[httpx.Client]:
    """One that scrapes the server every second, with our alerts."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("there is no Prometheus")
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(FOLDER / "alerts.yml")],
        "scrape_configs": [
            {
                "job_name": "vivace",
                "authorization": {"credentials": API_KEY},
                "static_configs": [{"targets": [f"127.0.0.1:{server.port}"]}],
            }
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    log = folder / "prometheus.log"
    with log.open("w") as lines:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                "--web.listen-address=127.0.0.1:0",
            ],
            stdout=subprocess.DEVNULL,
            stderr=lines,
        )
    try:
        wait(lambda: LISTENING.search(log.read_text()) is not None)
        found = LISTENING.search(log.read_text())
        assert found is not None
        with httpx.Client(base_url=f"http://{found[1]}/api/v1", timeout=DEADLINE_S) as client:
            yield client
    finally:
        process.kill()
        process.wait()


def answered(client: httpx.Client, query: str) -> list[Any]:
    answer = client.get("/query", params={"query": query}).json()
    assert answer["status"] == "success", (query, answer)
    return list(answer["data"]["result"])


def alerts(client: httpx.Client) -> list[dict[str, Any]]:
    return list(client.get("/rules").json()["data"]["groups"][0]["rules"])


def wait(what: Callable[[], bool], name: str = "") -> None:
    end = time.monotonic() + DEADLINE_S
    while True:
        try:
            if what():
                return
        except (httpx.TransportError, json.JSONDecodeError):  # it is starting
            pass
        assert time.monotonic() < end, name or what
        time.sleep(0.1)  # between two looks at its API, which cannot be waited on


def test_a_real_prometheus_answers_the_dashboard(server: ServedProcess, tmp_path: Path) -> None:
    with prometheus(server, tmp_path) as client:
        wait(lambda: bool(answered(client, "up == 1")))
        ask(server)
        counted = "increase(vivace:generation_tokens_total[1m]) > 0 and count_over_time(up{job='vivace'}[1m]) >= 3"
        wait(lambda: bool(answered(client, counted.replace(" and ", " and on(instance) "))))
        for query in queries():
            if ONLY_WITH_SPECULATION & set(NAME.findall(query)):
                answered(client, query)
            elif "changes(" not in query:
                wait(lambda query=query: bool(answered(client, query)), query)
        ttft = next(query for query in queries() if "0.5, sum by (le) (rate(vivace:time_to_first" in query)

        def is_known() -> bool:
            """Not where the requests are more than a minute old."""
            ask(server)
            return any(0 < float(one["value"][1]) < DEADLINE_S for one in answered(client, ttft))

        wait(is_known)
        wait(lambda: all(rule["health"] == "ok" for rule in alerts(client)))
        assert {rule["state"] for rule in alerts(client)} <= {"inactive", "pending"}
