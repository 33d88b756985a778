"""A parser with processes of its own, and what it may be asked."""

from collections.abc import Iterator

import pytest

from purvey.contracts.engine import ChatMessage
from purvey.contracts.parse import RenderChat
from purvey.parse.parser import Parser
from purvey.parse.pool import ParsePool


@pytest.fixture(scope="module")
def pool() -> Iterator[ParsePool]:
    """Real parse processes."""
    pool = ParsePool()
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def parser(pool: ParsePool) -> Parser:
    """What asks them."""
    return Parser(pool)


def chat(source: str, *contents: str) -> RenderChat:
    """Ask for a template's output."""
    return RenderChat(
        source=source,
        bos_token="<s>",
        eos_token="</s>",
        messages=tuple(ChatMessage(role="user", content=one) for one in contents or ("hi",)),
        add_generation_prompt=True,
    )
