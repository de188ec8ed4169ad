"""The engine's end of the channel: a front that does not read, reads late or is gone never holds the engine up."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from vivace.core.errors import EngineError
from vivace.core.events import TokenEvent
from vivace.worker.channel import FrameDecoder, encode_frame
from vivace.worker.info import EngineGauges
from vivace.worker.messages import Abort, Failed, Report, Step, Stop
from vivace.worker.refusal import error_as_data
from vivace.worker.socket_channel import SocketChannel

Ends = tuple[socket.socket, SocketChannel]


@pytest.fixture
def ends() -> Iterator[Ends]:
    front, engine = socket.socketpair()
    front.settimeout(60)
    channel = SocketChannel(engine)
    yield front, channel
    front.close()
    engine.close()


def step(number: int) -> Step:
    return Step([TokenEvent(f"request-{i}", 0, number, None) for i in range(64)], [], [], EngineGauges(number))


def test_reports_wait_for_a_front_that_reads_late(ends: Ends) -> None:
    front, channel = ends
    for number in range(1000):  # 6 MB: thirty times what the socket holds
        channel.send(step(number))
    received: list[Report] = []

    def read_all() -> None:
        decoder: FrameDecoder[Report] = FrameDecoder(Report)
        while len(received) < 1000:
            received.extend(decoder.feed(front.recv(1 << 16)))
        front.close()

    reader = threading.Thread(target=read_all)
    reader.start()
    while not channel.is_closed:
        channel.wait(60)  # until the socket takes more, or the front is gone
        channel.receive()
    reader.join()
    assert received == [step(number) for number in range(1000)]


def test_the_last_reports_are_sent_before_it_closes(ends: Ends) -> None:
    front, channel = ends
    channel.send(step(1))
    channel.send(Failed(error_as_data(EngineError("broken"))))
    channel.finish(60)
    decoder: FrameDecoder[Report] = FrameDecoder(Report)
    received: list[Report] = []
    while data := front.recv(1 << 16):
        received += decoder.feed(data)
    assert received == [step(1), Failed(error_as_data(EngineError("broken")))]


def test_a_front_that_never_reads_delays_the_end_by_the_time_out_only(ends: Ends) -> None:
    _, channel = ends
    for number in range(200):
        channel.send(step(number))
    channel.finish(0.01)
    assert channel.is_closed


def test_commands_come_as_they_are_there_and_the_end_is_noticed(ends: Ends) -> None:
    front, channel = ends
    assert channel.receive() == []
    frames = bytes(encode_frame(Abort("a")) + encode_frame(Stop("b", 0, "x")))
    front.sendall(frames[:-1])
    channel.wait(None)
    assert channel.receive() == [Abort("a")]
    front.sendall(frames[-1:])
    channel.wait(None)
    assert channel.receive() == [Stop("b", 0, "x")]
    front.close()
    channel.wait(None)
    assert channel.receive() == []
    assert channel.is_closed


def test_sending_to_a_front_that_is_gone_only_closes(ends: Ends) -> None:
    front, channel = ends
    front.close()
    channel.send(step(1))
    assert channel.is_closed
    channel.send(step(2))


def test_an_end_within_a_message_is_an_error(ends: Ends) -> None:
    front, channel = ends
    front.sendall(bytes(encode_frame(Abort("a")))[:-1])
    front.close()
    with pytest.raises(EngineError, match="within a message"):
        channel.receive()
