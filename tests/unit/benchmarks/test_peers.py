"""What the bars against peers count: decoding apart from prefill, and tokens over HTTP."""

import asyncio
import json
import subprocess
import sys

import pytest

from benchmarks.peers.answer import Answer, from_child
from benchmarks.peers.child import cpu_seconds, descendants
from benchmarks.peers.http_load import Stream, read_events


def test_decoding_is_counted_while_every_sequence_decodes() -> None:
    answer = Answer(tokens=[], moments_s=[[1.0, 2.0, 3.0, 4.0], [2.0, 2.5, 3.0, 3.5]])
    # From 2.0 on both decode, and at 3.5 the first is done: (2, 3.5] has 3.0, and 2.5, 3.0, 3.5.
    assert answer.decoded_per_s == pytest.approx(4 / 1.5)
    assert answer.first_s == [1.0, 2.0]


def test_a_child_that_answers_too_little_is_no_measurement() -> None:
    with pytest.raises(AssertionError, match="wanted 3"):
        from_child({"tokens": [[1, 2, 3], [1, 2]], "moments_s": [0.1, 0.2, 0.3]}, 2, 3)


@pytest.mark.parametrize("size", [1, 7, 64, 4_096])
async def test_events_are_read_wherever_the_chunks_are_cut(size: int) -> None:
    events = [{"choices": [{"text": "é 你"}]}, {"choices": [], "usage": {"completion_tokens": 2}}]
    body = "".join(f"data: {json.dumps(one, ensure_ascii=False)}\n\n" for one in events).encode()
    body += b"data: [DONE]\n\n"
    reader = asyncio.StreamReader()
    reader.feed_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for start in range(0, len(body), size):
        part = body[start : start + size]
        reader.feed_data(f"{len(part):x}\r\n".encode() + part + b"\r\n")
    reader.feed_data(b"0\r\n\r\n")
    assert [event async for event in read_events(reader)] == events


async def test_a_refusal_is_no_measurement() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"HTTP/1.1 429 Too Many Requests\r\n\r\nslow down")
    reader.feed_eof()
    with pytest.raises(RuntimeError, match="slow down"):
        _ = [event async for event in read_events(reader)]


def test_a_stream_is_good_by_its_first_token_and_its_gaps() -> None:
    gaps = (0.1,) * 19
    assert Stream(first_s=1.9, gaps_s=(*gaps, 0.9), prompt_tokens=1, tokens=21).is_good
    assert not Stream(first_s=2.1, gaps_s=gaps, prompt_tokens=1, tokens=20).is_good
    assert not Stream(first_s=1.0, gaps_s=(*gaps, 0.9, 0.9), prompt_tokens=1, tokens=22).is_good


def test_processor_time_includes_descendants() -> None:
    work = "import subprocess, sys; print(subprocess.run([sys.executable, '-c', sys.argv[1]]))"
    inner = "sum(range(3_000_000)); print('done', flush=True); input()"
    command = [sys.executable, "-c", work, inner]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        (child,) = descendants(process.pid)
        assert cpu_seconds(process.pid) >= cpu_seconds(child) > 0
        process.communicate(b"\n")
