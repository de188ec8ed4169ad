"""`python canary_process.py PORT KEY NUM_STREAMS FRONT ENGINE`: streams that must not notice what else arrives.

Each stream asks again and again for the same seeded continuation; every answer must be the first one. It ends when
standard input closes and prints what it saw as one JSON object. A ticker in the same loop tells the pauses of the
machine from those of the server: it counts processor time of the server's two processes (FRONT and ENGINE), and only
while it runs itself. Who is kept from running uses none.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field

MAX_TOKENS = 160
TICK_S = 0.02
LATE_S = 0.5  # a request that this process sent so late may be answered 408


@dataclass
class Report:
    num_answers: int = 0
    num_chunks: int = 0
    longest_gap_s: float = 0.0  # between chunks of one stream, as far as the server was busy
    failures: list[str] = field(default_factory=list)


class LateRequestError(Exception):
    """A request of ours that came too late, as the server says."""


class Ticker:
    """How long this process ran while the server computed, in all."""

    def __init__(self, pids: list[int]) -> None:
        self.busy_s = 0.0
        self._clocks = [(~pid << 3) | 2 for pid in pids]  # Linux: the processor time of another process

    async def run(self) -> None:
        before = self._used_s()
        while True:
            await asyncio.sleep(TICK_S)
            now = self._used_s()
            busy_s = max(new - old for new, old in zip(now, before, strict=True))
            self.busy_s += min(busy_s, 2 * TICK_S)
            before = now

    def _used_s(self) -> list[float]:
        return [time.clock_gettime(clock) for clock in self._clocks]


class Canary:
    def __init__(self, port: int, key: str, seed: int, report: Report, ticker: Ticker) -> None:
        self.port, self.key, self.seed = port, key, seed
        self.report, self.ticker = report, ticker
        self.first_answer: str | None = None
        self.has_begun = asyncio.Event()

    async def sing(self, ending: asyncio.Event) -> None:
        while not ending.is_set():
            try:
                text = await self.stream()
            except LateRequestError:
                continue
            except (OSError, ValueError, KeyError, asyncio.IncompleteReadError) as error:
                self.report.failures.append(f"seed {self.seed}: {error!r}")
                self.has_begun.set()
                return
            self.report.num_answers += 1
            if self.first_answer is None:
                self.first_answer = text
            elif text != self.first_answer:
                self.report.failures.append(f"seed {self.seed}: {text!r} is not {self.first_answer!r}")

    async def stream(self) -> str:
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(self.request())
            return await self.read_answer(reader, is_late=time.monotonic() - began > LATE_S)
        finally:
            writer.close()

    def request(self) -> bytes:
        fields = {"prompt": "The sea was", "max_tokens": MAX_TOKENS, "seed": self.seed, "stream": True}
        body = json.dumps({**fields, "ignore_eos": True}).encode()
        head = (
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self.key}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + body

    async def read_answer(self, reader: asyncio.StreamReader, *, is_late: bool) -> str:
        text, last_s = "", self.ticker.busy_s
        while line := await reader.readline():
            if not line.startswith(b"data: "):
                if line.startswith(b"HTTP/1.1 408 ") and is_late:
                    raise LateRequestError
                if line.startswith(b"HTTP/1.1 ") and b" 200 " not in line:
                    raise ValueError(f"answered {line!r}")
                continue
            if line.startswith(b"data: [DONE]"):
                return text
            text += json.loads(line[6:])["choices"][0]["text"]
            self.has_begun.set()
            gap_s, last_s = self.ticker.busy_s - last_s, self.ticker.busy_s
            self.report.longest_gap_s = max(self.report.longest_gap_s, gap_s)
            self.report.num_chunks += 1
        raise ValueError("the stream broke off")


async def main(port: int, key: str, num_streams: int, pids: list[int]) -> None:
    report, ticker, ending = Report(), Ticker(pids), asyncio.Event()
    tasks = [asyncio.create_task(ticker.run())]
    canaries = [Canary(port, key, seed, report, ticker) for seed in range(num_streams)]
    singing = [asyncio.create_task(canary.sing(ending)) for canary in canaries]
    await asyncio.gather(*(canary.has_begun.wait() for canary in canaries))
    print("singing", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    ending.set()
    await asyncio.gather(*singing)
    for task in tasks:
        task.cancel()
    print(json.dumps(asdict(report)))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), [int(pid) for pid in sys.argv[4:]]))
