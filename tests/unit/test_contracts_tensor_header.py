"""The header of a safetensors file: refused where two parsers could read it differently."""

import json

import pytest

from purvey.contracts.tensor_header import MAX_TENSORS, num_elements, parse_header

TENSOR = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


def test_tensors_come_by_name_without_the_metadata() -> None:
    text = json.dumps({"__metadata__": {"format": "pt"}, "a": TENSOR, "é": TENSOR}).encode()
    assert parse_header(text + b"   ") == {"a": TENSOR, "é": TENSOR}
    assert parse_header(b'{"__metadata__":null}') == {}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"", "first byte"),
        (b' {"a":1}', "first byte"),
        (b"[]", "first byte"),
        (b'\xef\xbb\xbf{"a":1}', "first byte"),
        ("{}".encode("utf-16"), "first byte"),
        (b'{"\xff":1}', "UTF-8"),
        (b'{"a":1', "delimiter"),
        (b'{"a":NaN}', "NaN"),
        (b'{"__metadata__":{"a":-Infinity}}', "Infinity"),
        (b'{"a":-0}', "no count"),
        (b'{"a":' + b"9" * 21 + b"}", "no count"),
        (b'{"a":1,"\\u0061":1}', "twice"),
        (b'{"a":{"b":1,"b":1}}', "twice"),
        (b'{"\\ud800":1}', "surrogates"),
        (b'{"a":["\\udfff"]}', "surrogates"),
        (b'{"__metadata__":{"a":"\\ud800"}}', "surrogates"),
        (b'{"__metadata__":{"a":1}}', "metadata"),
        (b'{"__metadata__":"pt"}', "metadata"),
        (b'{"a":' + b"[" * 50_000, "deep"),
        (b'{"a":[' + b"0," * 24 * MAX_TENSORS + b"0,0]}", "need"),
    ],
    ids=range(20),
)
def test_what_the_library_reads_otherwise_is_refused(text: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_header(text)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ([], 1),
        ([2, 3], 6),
        ([3, 0], 0),
        ([2**60], 2**60),
        ([2**61], None),
        ([2**40, 2**40, 0], None),
        ([0, 2**40, 2**40], None),
    ],
)
def test_elements_are_counted_where_no_arithmetic_overflows(
    shape: list[int], expected: int | None
) -> None:
    assert num_elements(shape) == expected
