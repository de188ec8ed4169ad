"""`python canary_process.py PORT KEY NUM_STREAMS`: streams that must not notice what else arrives.

Each stream asks again and again for the same seeded continuation; every answer must be the first one. It ends when
standard input closes and prints what it saw as one JSON object. A ticker in the same loop tells the pauses of the
machine from those of the server.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field

MAX_TOKENS = 160
TICK_S = 0.02


@dataclass
class Report:
    num_answers: int = 0
    num_chunks: int = 0
    longest_gap_s: float = 0.0  # between chunks of one stream, less what the machine itself was asleep
    failures: list[str] = field(default_factory=list)


class Ticker:
    """How long this process was kept from running, in all."""

    def __init__(self) -> None:
        self.lost_s = 0.0

    async def run(self) -> None:
        while True:
            started = time.monotonic()
            await asyncio.sleep(TICK_S)
            self.lost_s += max(0.0, time.monotonic() - started - 2 * TICK_S)


class Canary:
    def __init__(self, port: int, key: str, seed: int, report: Report, ticker: Ticker) -> None:
        self.port, self.key, self.seed = port, key, seed
        self.report, self.ticker = report, ticker
        self.first_answer: str | None = None

    async def sing(self, ending: asyncio.Event) -> None:
        while not ending.is_set():
            try:
                text = await self.stream()
            except (OSError, ValueError, KeyError, asyncio.IncompleteReadError) as error:
                self.report.failures.append(f"seed {self.seed}: {error!r}")
                return
            self.report.num_answers += 1
            if self.first_answer is None:
                self.first_answer = text
            elif text != self.first_answer:
                self.report.failures.append(f"seed {self.seed}: {text!r} is not {self.first_answer!r}")

    async def stream(self) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(self.request())
            return await self.read_answer(reader)
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

    async def read_answer(self, reader: asyncio.StreamReader) -> str:
        text, last, lost_s = "", time.monotonic(), self.ticker.lost_s
        while line := await reader.readline():
            if not line.startswith(b"data: "):
                if line.startswith(b"HTTP/1.1 ") and b" 200 " not in line:
                    raise ValueError(f"answered {line!r}")
                continue
            if line.startswith(b"data: [DONE]"):
                return text
            text += json.loads(line[6:])["choices"][0]["text"]
            now = time.monotonic()
            gap_s = now - last - (self.ticker.lost_s - lost_s)
            self.report.longest_gap_s = max(self.report.longest_gap_s, gap_s)
            self.report.num_chunks += 1
            last, lost_s = now, self.ticker.lost_s
        raise ValueError("the stream broke off")


async def main(port: int, key: str, num_streams: int) -> None:
    report, ticker, ending = Report(), Ticker(), asyncio.Event()
    tasks = [asyncio.create_task(ticker.run())]
    canaries = [Canary(port, key, seed, report, ticker) for seed in range(num_streams)]
    singing = [asyncio.create_task(canary.sing(ending)) for canary in canaries]
    print("singing", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    ending.set()
    await asyncio.gather(*singing)
    for task in tasks:
        task.cancel()
    print(json.dumps(asdict(report)))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
