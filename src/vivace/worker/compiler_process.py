"""`python -m vivace.worker.compiler_process FD`: tries constraints out, each in a child of its own.

The tokenizer is loaded once; a trial is a fork (3 ms for 50,000 tokens), so that a constraint that takes too long or
too much memory kills nothing but its trial.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys
import time
from collections import deque

from vivace.backends.cpu.detect import available_cores
from vivace.core.config import EngineConfig
from vivace.core.errors import EngineError, VivaceError
from vivace.engine.loader import load_model_tokenizer
from vivace.engine.structured_output import ConstraintCompiler
from vivace.worker.channel import FrameDecoder, encode_frame
from vivace.worker.compiler_messages import Answer, Prepare, Prepared, Question, Try, Verdict
from vivace.worker.trial import Trial

NICENESS = 5  # the engine goes first: beside a busy one a trial gets a quarter of a core
_RECEIVE_BYTES = 1 << 18
_PR_SET_PDEATHSIG = 1


class CompilerProcess:
    """Answers questions until the front closes the socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._decoder: FrameDecoder[Question] = FrameDecoder(Question)
        self._compiler: ConstraintCompiler | None = None
        self._waiting: deque[Try] = deque()
        self._running: dict[int, tuple[Try, Trial]] = {}  # by the trial's pipe
        self._is_open = True
        self._max_trials = max(1, available_cores() // 2)

    def run(self) -> None:
        while self._is_open:
            self._start_trials()
            readable = self._wait()
            if self._socket.fileno() in readable:
                self._receive()
            now = time.monotonic()
            for pipe, (question, trial) in list(self._running.items()):
                if pipe in readable or now >= trial.deadline:
                    del self._running[pipe]
                    result = trial.result()
                    self._send(Verdict(question.number, result.outcome, result.message))  # type: ignore[arg-type]

    def _wait(self) -> set[int]:
        poll = select.poll()
        for descriptor in (self._socket.fileno(), *self._running):
            poll.register(descriptor, select.POLLIN)
        deadline = min((trial.deadline for _, trial in self._running.values()), default=None)
        timeout_ms = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1e3 + 1
        return {descriptor for descriptor, _ in poll.poll(timeout_ms)}

    def _start_trials(self) -> None:
        while self._waiting and len(self._running) < self._max_trials and self._compiler is not None:
            question = self._waiting.popleft()
            trial = Trial(self._compiler, question.outputs)
            self._running[trial.pipe] = (question, trial)

    def _receive(self) -> None:
        data = self._socket.recv(_RECEIVE_BYTES)
        self._is_open = bool(data)
        for question in self._decoder.feed(data):
            if isinstance(question, Try):
                self._waiting.append(question)
            else:
                self._prepare(question)

    def _prepare(self, question: Prepare) -> None:
        try:
            self._compiler = _compiler(question.config)
        except VivaceError as error:
            self._send(Prepared(str(error)))
        else:
            self._send(Prepared())

    def _send(self, answer: Answer) -> None:
        self._socket.sendall(encode_frame(answer))


def _compiler(config: EngineConfig) -> ConstraintCompiler:
    if config.load_format == "dummy" and config.tokenizer is None and config.model is None:
        raise EngineError("the model has no tokenizer")
    tokenizer = load_model_tokenizer(config)
    return ConstraintCompiler(tokenizer, tokenizer.eos_ids)


def main(arguments: list[str]) -> int:
    """Serve the socket whose file descriptor is the only argument. Returns the exit status."""
    if len(arguments) != 1 or not arguments[0].isdigit():
        print("vivace.worker.compiler_process is started by vivace serve: it needs a socket", file=sys.stderr)
        return 2
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the front drains first; the socket's end is what ends this process
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(NICENESS)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # no threads: a trial is a fork
    try:
        CompilerProcess(socket.socket(fileno=int(arguments[0]))).run()
    except ConnectionError:  # the front is gone
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
