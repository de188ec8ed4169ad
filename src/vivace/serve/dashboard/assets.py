"""The page's files, read once; whatever is not in the folder does not exist."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

PAGE = "index.html"
FOLDER = "/dashboard/"  # of everything but the page, which is at /
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """`tag` changes with the content."""

    body: bytes
    media_type: str
    tag: str


@cache
def _assets() -> dict[str, Asset]:
    found = {}
    for file in (files(__package__) / "static").iterdir():
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in MEDIA_TYPES:
            body = file.read_bytes()
            tag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
            found["/" if file.name == PAGE else FOLDER + file.name] = Asset(body, MEDIA_TYPES[suffix], tag)
    return found


def asset(path: str) -> Asset | None:
    """What is served at this path of a URL; None where nothing is."""
    return _assets().get(path)


ASSET_PATHS = frozenset(_assets())
