"""Everything that a figure needs to be believed: the server, the traffic, the machine, the command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vivace.bench.stored_result import StoredResult, flat
from vivace.charts.notice import code
from vivace.charts.numbers import compact, percent
from vivace.charts.page import Section
from vivace.charts.table import facts

_MAX_FACTS, _MAX_CHARACTERS = 60, 300


def facts_sections(result: StoredResult) -> Iterator[Section]:
    server = list(server_facts(result.summary.get("server") or {}))
    if server:
        yield Section("Server", facts(server))
    yield from settings_sections([result])


def settings_sections(results: Sequence[StoredResult]) -> Iterator[Section]:
    """What made the runs; of several, the settings that all of them share."""
    for title, settings in (
        ("Traffic and settings", [dict(flat(result.run.options)) for result in results]),
        ("Machine", [dict(flat(result.run.machine)) for result in results]),
    ):
        shared = {
            name: value for name, value in settings[0].items() if all(one.get(name) == value for one in settings)
        }
        if shared:
            yield Section(title, facts(_shown(shared)))
    commands = "".join(code(command) for command in dict.fromkeys(result.run.command for result in results))
    versions = ", ".join(dict.fromkeys(result.run.version for result in results))
    yield Section("Command" if len(results) == 1 else "Commands", commands + facts([("Vivace", versions)]))


def server_facts(server: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the server told of itself, in words; nothing where it told nothing."""
    for name, label in (("running", "Requests running"), ("waiting", "Requests waiting")):
        if server.get(f"{name}_mean") is not None:
            yield label, f"{compact(server[f'{name}_mean'])} on average, {compact(server[f'{name}_max'])} at most"
    if server.get("kv_usage_mean") is not None:
        yield (
            "KV cache in use",
            f"{percent(server['kv_usage_mean'])} on average, {percent(server['kv_usage_max'])} at most",
        )
    for name, label in (
        ("prefix_hit_rate", "Prompt tokens from the prefix cache"),
        ("acceptance", "Guessed tokens that stood"),
    ):
        if server.get(name) is not None:
            yield label, percent(server[name])
    if server.get("num_preemptions") is not None:
        yield "Preemptions", compact(server["num_preemptions"])
    yield from _memory(server)
    if server.get("energy_joules") is not None:
        each = server.get("joules_per_output_token")
        yield "Energy", f"{compact(server['energy_joules'])} J" + (f", {compact(each)} J a token" if each else "")


def _memory(server: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    peak = server.get("peak_resident_bytes")
    if peak is not None:
        yield "Memory at most", _bytes(peak)
    for name, label in (
        ("weights_bytes", "Weights"),
        ("kv_bytes", "KV cache, reserved"),
        ("other_bytes", "Other memory"),
    ):
        if server.get(name):
            yield label, _bytes(server[name])


def _bytes(number: float) -> str:
    for factor, unit in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number / 1024:.0f} KiB"


def _shown(settings: Mapping[str, object]) -> list[tuple[str, str]]:
    rows = [(name.replace("_", " "), _words(name, value)) for name, value in settings.items()]
    return rows[:_MAX_FACTS]


def _words(name: str, value: object) -> str:
    if isinstance(value, (int, float)) and name.endswith("bytes"):
        return _bytes(value)
    text = compact(value) if isinstance(value, float) else str(value)
    return text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS] + "…"
