"""Which tool format a model was trained on, as its chat template shows."""

from __future__ import annotations

import re
from functools import lru_cache

from vivace.serve.tools.format import ToolFormat
from vivace.serve.tools.generic import GENERIC
from vivace.serve.tools.hermes import HERMES
from vivace.serve.tools.llama import LLAMA
from vivace.serve.tools.mistral import MISTRAL

_READS_TOOLS = re.compile(r"\btools\b")


@lru_cache(maxsize=32)
def recognise_format(template: str) -> ToolFormat:
    """The format of a template's own calls; the generic one where it knows none, or one that nothing here reads."""
    if not _READS_TOOLS.search(template):
        return GENERIC
    if "[TOOL_CALLS]" in template:  # with [ARGS]: the newer form, a name and bare arguments
        return GENERIC if "[ARGS]" in template else MISTRAL
    if "<tool_call>" in template:  # with <function=: a form of tags instead of JSON
        return GENERIC if "<function=" in template else HERMES
    if '"parameters": ' in template and "ipython" in template:
        return LLAMA
    return GENERIC
