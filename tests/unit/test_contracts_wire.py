"""Frames: whatever the chunking, the same messages; whatever the garbage, a refusal."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purvey.contracts import wire
from purvey.contracts.engine import Cancel, FromEngine, ToEngine
from purvey.contracts.jobs import FromWorker, Heartbeat, JobEvent, StopJob, ToWorker
from purvey.errors import InternalError


@given(
    st.lists(st.text(max_size=40), max_size=8),
    st.integers(min_value=1, max_value=17),
)
def test_any_chunking_gives_the_same_messages(texts: list[str], size: int) -> None:
    sent = [JobEvent(message=text, data={"step": 1}) for text in texts]
    stream = b"".join(wire.pack(message) for message in sent)
    reader: wire.FrameReader[FromWorker] = wire.FrameReader(FromWorker)
    got: list[FromWorker] = []
    for at in range(0, len(stream), size):
        got.extend(reader.feed(stream[at : at + size]))
    assert got == sent


@pytest.mark.row("NET-09")
@pytest.mark.parametrize(
    "frame",
    [
        struct.pack(">I", 2**32 - 1),  # announces 4 GB
        struct.pack(">I", 5) + b"\x80\x04\x95..",  # a pickle's first bytes
        struct.pack(">I", 1) + b"\xc1",  # never valid msgpack
        wire.pack(Heartbeat()),  # a message of the other direction
    ],
)
def test_a_frame_that_does_not_fit_is_refused(frame: bytes) -> None:
    reader: wire.FrameReader[ToWorker] = wire.FrameReader(ToWorker)
    with pytest.raises(InternalError):
        list(reader.feed(frame))


@pytest.mark.row("NET-09")
def test_text_that_is_not_utf_8_and_nesting_without_end_are_refused() -> None:
    said = wire.pack(JobEvent(message="a word", data={"deep": 1}))
    deep = said.replace(b"\x01", b"\x91" * 200_000 + b"\x01")
    for frame in (said.replace(b"word", b"w\xffrd"), struct.pack(">I", len(deep) - 4) + deep[4:]):
        reader: wire.FrameReader[FromWorker] = wire.FrameReader(FromWorker)
        with pytest.raises(InternalError):
            list(reader.feed(frame))


def test_messages_before_a_bad_frame_are_delivered() -> None:
    reader: wire.FrameReader[ToWorker] = wire.FrameReader(ToWorker)
    good = StopJob(reason="pause")
    messages = reader.feed(wire.pack(good) + struct.pack(">I", 1) + b"\xc1")
    assert next(messages) == good
    with pytest.raises(InternalError):
        next(messages)


def test_unions_of_both_crossings_build() -> None:
    for union, message in ((ToEngine, Cancel(request_id="r")), (FromWorker, Heartbeat())):
        reader: wire.FrameReader[object] = wire.FrameReader(union)
        assert list(reader.feed(wire.pack(message))) == [message]


def test_an_oversized_message_is_our_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FromEngine  # the union exists
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 8)
    with pytest.raises(InternalError, match="exceeds 8"):
        wire.pack(JobEvent(message="long enough to exceed"))
