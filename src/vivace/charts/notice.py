"""A remark that must not be overlooked, and text that is to be copied."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def notice(remarks: Sequence[str]) -> str:
    """An HTML fragment; empty without remarks."""
    lines = "".join(f"<p>{escape(remark)}</p>" for remark in remarks)
    return f'<div class="notice" role="note">{lines}</div>\n' if lines else ""


def code(text: str) -> str:
    """An HTML fragment; lines break between words only, since an option does not survive a break at its hyphen."""
    return "<pre>" + " ".join(f"<span>{escape(word)}</span>" for word in text.split(" ")) + "</pre>\n"
