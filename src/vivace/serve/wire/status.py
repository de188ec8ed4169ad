"""GET /health, GET /ready and GET /version."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Health(Struct):
    status: Literal["ok"]
    version: str


class Readiness(Struct):
    """`ready` with status 200, anything else with 503."""

    status: str


class Version(Struct):
    version: str
