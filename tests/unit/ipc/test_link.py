"""The child's end of a link."""

import socket
import threading
from collections.abc import Iterator

import pytest

from purvey.contracts.jobs import FromWorker, Heartbeat, JobEvent, StopJob, ToWorker
from purvey.contracts.wire import FrameReader, pack
from purvey.errors import InternalError
from purvey.ipc.link import Link


@pytest.fixture
def parent() -> Iterator[tuple[socket.socket, Link[ToWorker]]]:
    ours, theirs = socket.socketpair()
    link: Link[ToWorker] = Link(theirs.detach(), ToWorker)
    with ours:
        yield ours, link
        link.close()


def test_frames_arrive_in_order_however_they_are_cut(
    parent: tuple[socket.socket, Link[ToWorker]],
) -> None:
    ours, link = parent
    wire = pack(StopJob(reason="pause")) + pack(StopJob(reason="cancel"))
    sender = threading.Thread(target=lambda: [ours.send(wire[i : i + 1]) for i in range(len(wire))])
    sender.start()
    assert link.receive() == StopJob(reason="pause")
    assert link.receive() == StopJob(reason="cancel")
    sender.join()


@pytest.mark.row("NET-09")
def test_the_end_of_the_stream_is_none_also_in_the_middle_of_a_frame(
    parent: tuple[socket.socket, Link[ToWorker]],
) -> None:
    ours, link = parent
    ours.sendall(pack(StopJob(reason="pause"))[:5])
    ours.shutdown(socket.SHUT_WR)
    assert link.receive() is None


@pytest.mark.row("NET-09")
def test_a_frame_of_another_union_is_refused(parent: tuple[socket.socket, Link[ToWorker]]) -> None:
    ours, link = parent
    ours.sendall(pack(Heartbeat()))
    with pytest.raises(InternalError, match="does not fit"):
        link.receive()


def test_frames_of_many_threads_never_mix(parent: tuple[socket.socket, Link[ToWorker]]) -> None:
    ours, link = parent
    text = "x" * 100_000  # larger than the socket's buffer, so that writes interleave if they can
    threads = [
        threading.Thread(target=lambda name=name: link.send(JobEvent(message=name + text)))
        for name in "abcdefgh"
    ]
    for thread in threads:
        thread.start()
    reader: FrameReader[FromWorker] = FrameReader(FromWorker)
    found: list[FromWorker] = []
    while len(found) < len(threads):
        found.extend(reader.feed(ours.recv(2**16)))
    assert sorted(m.message[0] for m in found if isinstance(m, JobEvent)) == list("abcdefgh")
    assert all(isinstance(m, JobEvent) and m.message[1:] == text for m in found)
    for thread in threads:
        thread.join()


def test_sending_to_a_parent_that_is_gone_says_so(
    parent: tuple[socket.socket, Link[ToWorker]],
) -> None:
    ours, link = parent
    ours.close()
    with pytest.raises(OSError, match="Broken pipe"):
        link.send(Heartbeat())
