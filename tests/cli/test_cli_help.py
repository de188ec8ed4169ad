"""What --help says: whole sentences, and defaults as one would type them."""

from __future__ import annotations

import pytest
from command_run import Vivace


@pytest.mark.parametrize("group", [[], ["bench"]])
def test_lists_of_commands_are_not_cut_off(vivace: Vivace, group: list[str]) -> None:
    listed = vivace(*group, "--help").stdout.partition("Commands:")[2]
    assert listed
    assert "..." not in listed


def test_defaults_that_a_file_may_change_are_shown_as_typed(vivace: Vivace) -> None:
    text = " ".join(vivace("serve", "--help").stdout.split())
    assert "[default: 8000]" in text
    assert "[default: access-log]" in text
    assert "[default: no-shared-prefix-cache]" in text
    assert "[default: (" not in text
