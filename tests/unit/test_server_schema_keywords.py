"""What a JSON schema may say here, and how large a regular expression may become."""

import json
from typing import Any

import pytest

from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidSchemaError
from purvey.server.openai.structured.regex_size import check_regex, written_out
from purvey.server.openai.structured.schema_keywords import KEYWORDS, enforceable

Schema = dict[str, Any]


def _nested(schema: Schema) -> Schema:
    return {"type": "object", "properties": {"a": {"items": schema}}}


REFUSALS: dict[str, tuple[Schema, str, str]] = {
    "unknown": ({"minimun": 1}, "minimun", "Did you mean 'minimum'"),
    "unsupported": ({"not": {}}, "not", "not supported"),
    "condition": ({"if": {}, "then": {}}, "if", "not supported"),
    "unique": ({"uniqueItems": True}, "uniqueItems", "only false"),
    "foreign": ({"x-guidance": {"lenient": True}}, "x-guidance", "no keyword"),
    "type": ({"type": "int"}, "type", "must be one or some of"),
    "types": ({"type": ["string", 3]}, "type", "must be one or some of"),
    "no values": ({"enum": []}, "enum", "at least one"),
    "no list": ({"anyOf": {}}, "anyOf", "list of schemas"),
    "inside a list": ({"anyOf": [{}, {"foo": 1}]}, "anyOf.1.foo", "no keyword"),
    "inside a definition": ({"$defs": {"b": {"foo": 1}}}, "$defs.b.foo", "no keyword"),
    "no schema": ({"items": 3}, "items", "must be a schema"),
    "tuple": ({"items": [{}]}, "items", "prefixItems"),
    "count": ({"minLength": -1}, "minLength", "whole number"),
    "count as text": ({"maxItems": "3"}, "maxItems", "whole number"),
    "count as truth": ({"maxItems": True}, "maxItems", "whole number"),
    "multiple of nothing": ({"multipleOf": 0}, "multipleOf", "above 0"),
    "draft 4": ({"exclusiveMinimum": True, "minimum": 1}, "exclusiveMinimum", "a number"),
    "format": ({"format": "iri"}, "format", "date-time"),
    "pattern": ({"pattern": 3}, "pattern", "regular expression"),
    "large pattern": ({"pattern": "(a{1000}){1000}"}, "pattern", "written out"),
    "large name": ({"patternProperties": {"a{5000}": {}}}, "patternProperties", "written out"),
    "elsewhere": ({"$ref": "https://example.org/x"}, "$ref", "same schema"),
    "inner id": ({"$id": "x"}, "$id", "not supported"),
    "many properties": ({"minProperties": 1}, "minProperties", "required"),
    "excluded whole": ({"exclusiveMinimum": 0, "maximum": 0.5}, "exclusiveMinimum", "fraction"),
    "excluded above": (
        {"allOf": [{"exclusiveMaximum": 1}, {"minimum": 0.5}]}, "exclusiveMaximum", "fraction",
    ),
    "long value": ({"const": "x" * LIMITS.literal_chars}, "const", "longer than"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_not_enforced_is_refused_by_name_and_place(name: str) -> None:
    schema, keyword, reason = REFUSALS[name]
    with pytest.raises(InvalidSchemaError) as caught:
        enforceable(_nested(schema), "response_format.json_schema.schema")
    expected = f"response_format.json_schema.schema.properties.a.items.{keyword}"
    assert caught.value.param == expected
    assert reason in caught.value.text
    assert (caught.value.status, caught.value.code) == (400, "invalid_schema")


def test_what_only_describes_is_left_out() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.org/x",
        "title": "T",
        "type": "object",
        "properties": {"title": {"type": "string", "description": "d", "default": None}},
        "required": ["title"],
        "minProperties": 1,
        "uniqueItems": False,
        "additionalProperties": False,
    }
    assert json.loads(enforceable(schema, "s")) == {
        "type": "object",
        "properties": {"title": {"type": "string"}},
        "required": ["title"],
        "additionalProperties": False,
    }


def test_values_are_kept_as_they_are() -> None:
    schema = {
        "anyOf": [{"const": None}, {"const": {"not": 1}}, {"enum": [False, {"foo": []}]}, True]
    }
    assert json.loads(enforceable(schema, "s")) == schema


def test_a_number_may_be_excluded_where_there_is_room() -> None:
    roomy: list[Schema] = [
        {"exclusiveMinimum": 0},
        {"exclusiveMinimum": 0, "maximum": 1},
        {"exclusiveMinimum": 0.25, "maximum": 0.5},
    ]
    for schema in roomy:
        assert json.loads(enforceable(schema, "s")) == schema


def test_a_schema_has_a_size() -> None:
    with pytest.raises(InvalidSchemaError, match="characters") as caught:
        enforceable({"enum": ["x" * 1_000 + str(i) for i in range(70)]}, "s")
    assert caught.value.param == "s"


def test_every_keyword_has_a_form_that_is_accepted() -> None:
    for keyword in KEYWORDS:
        values: list[Any] = [1, ["string"], {"a": {}}, [{}], {}, "a", "date", "#", False]
        accepted = []
        for value in values:
            try:
                enforceable({"required": ["a", "b"], keyword: value}, "s")
            except InvalidSchemaError:
                continue
            accepted.append(value)
        assert accepted, keyword


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("", 0),
        ("abc", 3),
        ("a{3}b", 4),
        ("a{2,5}", 5),
        ("a{3,}", 3),
        ("(ab){10}", 20),
        ("((ab){10}c){3}", 63),
        ("[a-z{3}]{4}", 4),
        (r"[\]{9}]{4}", 4),
        (r"\{3}a", 4),
        (r"\p{Greek}{7}", 7),
        ("(a|b){2}|c", 5),
        ("(?:a{1000}){1000}", 1_001_000),
        ("a{99999999999999999999}", 10**9),
    ],
)
def test_repetitions_are_written_out(pattern: str, size: int) -> None:
    found = written_out(pattern)
    assert found == size or size <= found <= 1.1 * size + 2


@pytest.mark.parametrize("pattern", ["a" * 4_097, "a{4097}", "(a{64}){65}", "(?x)a {9}", "(?ix:a)"])
def test_large_and_unreadable_expressions_are_refused(pattern: str) -> None:
    with pytest.raises(InvalidSchemaError) as caught:
        check_regex(pattern, "structured_outputs.regex")
    assert caught.value.param == "structured_outputs.regex"


@pytest.mark.parametrize("pattern", ["a" * 4_096, "a{4096}", "(a{64}){64}", "(((", "a{,"])
def test_small_expressions_pass_whether_they_compile_or_not(pattern: str) -> None:
    check_regex(pattern, "x")
