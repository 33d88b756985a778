"""INP-15: a hostile chat template costs its own request, and nothing else."""

import logging
from pathlib import Path

import pytest

from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidCheckpointError, InvalidValueError
from purvey.parse.parser import Parser
from tests.unit.parse.conftest import chat

GROW = "{% set ns = namespace(s='x' | center(10)) %}{% for i in range(40) %}{% set ns.s = "
FORBIDDEN = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__ }}",
    "format walk": "{{ '{0.__class__.__mro__}'.format(messages).x.y }}",
    "range": "{% for i in range(1000000000) %}x{% endfor %}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "multiplied": "{{ 'x' * 1000000000 }}",
    "include": "{% include 'CANARY' %}",
    "import": "{% import 'CANARY' as canary %}{{ canary }}",
    "extends": "{% extends 'CANARY' %}",
    "open": "{{ open('CANARY', 'w') }}",
    "recursion": "{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "codec": "{{ 'a'.encode('idna') }}",
    "surrogate": "{{ '\\ud800' }}",
    "lipsum": "{{ lipsum(1000) }}",
    "long output": "{% for i in range(90000) %}{% for j in range(900) %}0123456789{% endfor %}"
    "{% endfor %}",
    "address": "{{ raise_exception(messages[0].items) }}",
}
HUNGRY = {
    "formatted": "{{ '%1000000000d' % 1 }}",
    "format method": "{{ '{:>1000000000}'.format(messages[0].role) }}",
    "format filter": "{{ '%1000000000s' | format(messages[0].role) }}",
    "center": "{{ messages[0].role | center(1000000000) }}",
    "ljust": "{{ messages[0].role.ljust(1000000000) }}",
    "filled": "{{ [1] | batch(1000000000, 1) | list }}",
}
SLOW = {
    "nested": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "branching": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
    "{{ m(100) }}",
}
EITHER = {
    "replaced": "{% set ns = namespace(s='xxxx') %}{% for i in range(9) %}"
    "{% set ns.s = ns.s.replace('x', 'x' | center(100) | replace(' ', 'x')) %}{% endfor %}",
    "joined": GROW + "[ns.s, ns.s] | join %}{% endfor %}",
    "added": GROW + "ns.s ~ ns.s %}{% endfor %}",
}
UNCOMPILED = {
    "syntax": "{% for %}",
    "brackets": "{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}",
    "blocks": "{% for a in [1] %}" * 200 + "{% endfor %}" * 200,
    "sum": "{{ " + "+".join(["1"] * 20_000) + " }}",
}
pytestmark = pytest.mark.row("INP-15")


def goes_on(parser: Parser) -> bool:
    return parser.render(chat("{{ messages[0].content }}", "still here")).text == "still here"


@pytest.mark.parametrize("name", FORBIDDEN)
def test_inp15_what_the_sandbox_forbids_is_a_refused_request(
    parser: Parser, tmp_path: Path, name: str
) -> None:
    canary = tmp_path / "canary"
    with pytest.raises(InvalidValueError) as refusal:
        parser.render(chat(FORBIDDEN[name].replace("CANARY", str(canary))))
    assert refusal.value.param == "messages"
    assert "0x" not in refusal.value.text
    assert ".pyenv" not in refusal.value.text
    assert "lib/python" not in refusal.value.text
    assert not canary.exists()
    assert goes_on(parser)


def replaced(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Why processes were replaced."""
    return [str(vars(r)["reason"]) for r in caplog.records if r.message == "parse.replaced"]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        *(HUNGRY | SLOW).items(),
        *(
            pytest.param(name, source, marks=[] if name == "joined" else pytest.mark.faults)
            for name, source in EITHER.items()
        ),
    ],
)
def test_inp15_a_bomb_ends_its_process_alone(
    parser: Parser, caplog: pytest.LogCaptureFixture, name: str, source: str
) -> None:
    with (
        caplog.at_level(logging.INFO, logger="purvey"),
        pytest.raises(InvalidCheckpointError) as refusal,
    ):
        parser.render(chat(source))
    assert refusal.value.param == "model"
    assert ("memory" in refusal.value.text) or ("longer than 2 s" in refusal.value.text)
    reasons = replaced(caplog)
    assert set(reasons) <= {"memory", "deadline"}
    assert name not in HUNGRY or "memory" in reasons
    assert name not in SLOW or reasons == ["deadline"]
    assert 1 <= len(reasons) <= 2  # it is tried once more, and no more
    assert goes_on(parser)


@pytest.mark.parametrize("name", UNCOMPILED)
def test_inp15_what_does_not_compile_is_refused_when_it_is_loaded(
    parser: Parser, name: str
) -> None:
    with pytest.raises(InvalidCheckpointError) as refusal:
        parser.check_template(UNCOMPILED[name])
    assert refusal.value.param == "model"
    assert goes_on(parser)


@pytest.mark.parametrize(
    "source", ["{{ '%1000000000d' % 1 }}", "{{ 'x' | center(1000000000) | length }}"]
)
def test_inp15_constants_that_are_computed_in_compiling_end_a_process_too(
    parser: Parser, source: str
) -> None:
    with pytest.raises((InvalidCheckpointError, InvalidValueError), match=r"memory|longer"):
        parser.render(chat(source))
    assert goes_on(parser)


def test_a_template_may_have_as_many_characters_as_the_limit_says(parser: Parser) -> None:
    at_most = "{# " + "x" * (LIMITS.template_chars - 6) + " #}"
    parser.check_template(at_most + "x" * (LIMITS.template_chars - len(at_most)))
    for size in (LIMITS.template_chars + 1, 32 * LIMITS.template_chars):
        with pytest.raises(InvalidCheckpointError, match="characters"):
            parser.check_template("x" * size)


def test_an_output_may_have_as_many_characters_as_the_limit_says(parser: Parser) -> None:
    half = "é" * (LIMITS.rendered_chars // 2)
    source = "{{ messages[0].content }}{{ messages[0].content }}"
    assert len(parser.render(chat(source, half)).text) == LIMITS.rendered_chars
    for more in ("x", "x" * 10**6):
        with pytest.raises(InvalidValueError, match="characters"):
            parser.render(chat(source, half + more))


def test_the_longest_conversation_of_the_widest_characters_fits_in_memory(parser: Parser) -> None:
    source = "{% for m in messages %}{{ m.content | trim }}{% endfor %}"
    content = "🙂" * (LIMITS.prompt_chars // 16)
    assert parser.render(chat(source, *[content] * 16)).text == content * 16


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages | tojson }}", '[{"role": "user", "content": "hi"}]'),
        ("{{ bos_token }}{{ messages[0].content | striptags }}{{ eos_token }}", "<s>hi</s>"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% generation %}a{% endgeneration %}{{ 3 * 4 }}", "a12"),
        ("{{ messages | pprint }}", "[{'content': 'hi', 'role': 'user'}]"),
    ],
)
def test_what_honest_templates_use_still_works(parser: Parser, source: str, text: str) -> None:
    assert parser.render(chat(source)).text == text
