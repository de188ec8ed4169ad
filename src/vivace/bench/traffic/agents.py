"""Agents that call tools in a loop: the context grows by each result, answers are short until the last."""

from __future__ import annotations

from collections.abc import Iterator

from vivace.bench.traffic.dialogue import Dialogue, Turn
from vivace.bench.traffic.lengths import LengthRange
from vivace.bench.traffic.setting import Setting

FEWEST_CALLS, MOST_CALLS = 3, 9
INSTRUCTION_LEN, TASK = 320, LengthRange(12, 80, 32)
CALL, RESULT, REPORT = LengthRange(12, 64, 28), LengthRange(24, 400, 90), LengthRange(60, 240, 120)
TOOL_S = 0.4  # a tool's mean time


def agent_loops(setting: Setting) -> Iterator[Dialogue]:
    """One instruction for all (role and tools), a task, then calls whose results come back after the tool's time.

    Results are messages of the user: that is what every server and chat template takes.
    """
    share = setting.max_model_len
    task, call, report = TASK.within(share // 16), CALL.within(share // 32), REPORT.within(share // 8)
    result = RESULT.within(share // 8)
    instruction = setting.tree.content(max(1, min(INSTRUCTION_LEN, share // 6)))
    while True:
        num_calls = setting.random.randint(FEWEST_CALLS, MOST_CALLS)
        said = setting.tree.content(task.draw(setting.random))
        turns: list[Turn] = []
        for number in range(num_calls + 1):
            output_len = (call if number < num_calls else report).draw(setting.random)
            pause = setting.pause_s(TOOL_S) if number else 0.0
            turns.append(Turn(said, output_len, setting.tree.content(output_len), pause))
            said = f"Tool result:\n{setting.tree.content(result.draw(setting.random))}"
        yield Dialogue(tuple(turns), instruction)
