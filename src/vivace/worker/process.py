"""`python -m vivace.worker FD`: the engine's process. The front starts it; nobody else talks to it."""

from __future__ import annotations

import ctypes
import gc
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable

from vivace.core.config import EngineConfig
from vivace.core.errors import EngineError, VivaceError
from vivace.engine.loader import LoadedEngine, load_engine
from vivace.worker.engine_loop import EngineLoop
from vivace.worker.info import EngineInfo
from vivace.worker.messages import Configure, Failed, Loading, Ready
from vivace.worker.refusal import error_as_data
from vivace.worker.socket_channel import SocketChannel

FAREWELL_S = 2.0  # for the last report, should the front be slow to read
SECONDS_BETWEEN_PROGRESS = 0.05
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Serve the socket whose file descriptor is the only argument until it closes. Returns the exit status."""
    if len(arguments) != 1 or not arguments[0].isdigit():
        print("vivace.worker is started by vivace serve: it needs an inherited socket", file=sys.stderr)
        return 2
    _leave_signals_to_the_front()
    channel = SocketChannel(socket.socket(fileno=int(arguments[0])))
    try:
        return _serve(channel)
    except BaseException as error:  # whatever it is, the front must hear of it
        trace = None if isinstance(error, VivaceError) else traceback.format_exc()
        channel.send(Failed(error_as_data(error), trace))
        return 1
    finally:
        channel.finish(FAREWELL_S)


def engine_info(loaded: LoadedEngine) -> EngineInfo:
    config = loaded.engine.config
    return EngineInfo(
        vocab_size=loaded.spec.vocab_size,
        hidden_size=loaded.spec.hidden_size,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        block_size=config.block_size,
        num_kv_blocks=config.num_kv_blocks,
        kv_cache_dtype=config.kv_cache_dtype,
        kv_bytes_per_token=loaded.kv_spec.bytes_per_token,
        weight_bytes=loaded.weight_bytes,
        eos_ids=tuple(sorted(loaded.engine.limits.eos_ids)),
        choices=loaded.choices,
        sampling_defaults=loaded.generation.defaults,
    )


def _serve(channel: SocketChannel) -> int:
    config = _configuration(channel)
    if config is None:
        return 0
    loaded = load_engine(config, _progress(channel))
    loaded.engine.constraints.prepare()
    gc.freeze()  # what was loaded stays: a full collection would look at it again, for 20 ms between two tokens
    channel.send(Ready(engine_info(loaded)))
    EngineLoop(loaded.engine, channel).run()
    return 0


def _configuration(channel: SocketChannel) -> EngineConfig | None:
    """The first command; None where the front left before it."""
    while not channel.is_closed:
        channel.wait(None)
        for command in channel.receive():
            if not isinstance(command, Configure):
                raise EngineError(f"the first command must be Configure, not {type(command).__name__}")
            return command.config
    return None


def _progress(channel: SocketChannel) -> Callable[[int, int], None]:
    told = float("-inf")

    def tell(done: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if done == total or now - told >= SECONDS_BETWEEN_PROGRESS:
            told = now
            channel.send(Loading(done, total))
        if channel.is_closed:
            raise EngineError("the front is gone: nobody waits for this model")

    return tell


def _leave_signals_to_the_front() -> None:
    """Ctrl-C and SIGTERM reach every process of a terminal or a service; streams are to be drained first.

    The channel's end is what ends this process. Should it be busy in a long step then, the kernel ends it when its
    parent dies (Linux).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
