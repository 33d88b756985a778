"""A parser believes no process: what does not fit the question is no answer."""

import sys
from collections.abc import Callable, Iterator

import pytest

from purvey.contracts.engine import ChatMessage
from purvey.contracts.parse import DecodeAudio, DecodeImage, Prefix, RenderChat
from purvey.errors import InternalError, InvalidCheckpointError, InvalidValueError
from purvey.parse.parser import Parser
from purvey.parse.pool import ParsePool

LIAR = """
import argparse
from purvey.contracts.limits import LIMITS
from purvey.contracts.parse import *
from purvey.ipc.link import Link
parser = argparse.ArgumentParser()
parser.add_argument("--fd", type=int)
parser.add_argument("--parent", type=int)
link = Link(parser.parse_args().fd, ToParser)
link.send(ParserReady())
while link.receive() is not None:
    link.send({answer})
"""
Lying = Callable[[str], Parser]


@pytest.fixture
def lying() -> Iterator[Lying]:
    """Make parsers whose processes always say the same."""
    pools: list[ParsePool] = []

    def make(answer: str) -> Parser:
        program = LIAR.replace("{answer}", answer)
        pools.append(ParsePool(command=(sys.executable, "-P", "-c", program)))
        return Parser(pools[-1])

    yield make
    for pool in pools:
        pool.close()


def render(parser: Parser) -> object:
    return parser.render(
        RenderChat(
            source="a",
            bos_token="",
            eos_token="",
            messages=(ChatMessage(role="user", content="hi"),),
            add_generation_prompt=True,
            prefixes=(Prefix(num_messages=1, add_generation_prompt=True),),
        )
    )


def decode(parser: Parser) -> object:
    question = DecodeImage(data=b"", height=2, width=2, channels=3, max_pixels=9)
    return parser.decode(question, param="input", timeout_s=60.0)


def decode_audio(parser: Parser) -> object:
    question = DecodeAudio(data=b"", start_s=0.0, max_s=1.0)
    return parser.decode_audio(question, param="input", timeout_s=60.0)


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (decode_audio, "AudioDecoded(sample_rate_hz=8000, channels=2, samples=bytes(12))"),
        (decode_audio, "AudioDecoded(sample_rate_hz=8000, channels=0, samples=b'')"),
        (decode_audio, "AudioDecoded(sample_rate_hz=1, channels=1, samples=bytes(4))"),
        (decode_audio, "TemplateChecked()"),
        (decode, "ImageDecoded(given_width=1, given_height=1, pixels=bytes(11))"),
        (decode, "ImageDecoded(given_width=1, given_height=1, pixels=bytes(10**7))"),
        (decode, "TemplateChecked()"),
        (render, "ChatRendered(text='a')"),
        (render, "ChatRendered(text='a' * (LIMITS.rendered_chars + 1), prefix_chars=(1,))"),
        (render, "ParserReady()"),
        (lambda parser: parser.check_template("a"), "ChatRendered(text='a')"),
    ],
)
def test_an_answer_that_does_not_fit_is_our_bug(
    lying: Lying, ask: Callable[[Parser], object], answer: str
) -> None:
    with pytest.raises(InternalError, match="unfit"):
        ask(lying(answer))


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (decode, InvalidValueError),
        (render, InvalidValueError),
        (lambda parser: parser.check_template("a"), InvalidCheckpointError),
    ],
)
def test_a_refusal_is_cut_to_a_sentence(
    lying: Lying, ask: Callable[[Parser], object], error: type[Exception]
) -> None:
    with pytest.raises(error) as refusal:
        ask(lying("Unusable(message='a' * 10**6)"))
    assert len(str(refusal.value)) == 500
