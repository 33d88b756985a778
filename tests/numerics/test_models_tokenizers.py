"""Our tokenizer against `transformers`, for byte-level and byte-fallback vocabularies."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as LibraryTokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from purvey.contracts.chat.tools import Tool, ToolCall
from purvey.contracts.engine import ChatMessage
from purvey.models.chat import ChatTemplate
from purvey.models.tokenizer import Tokenizer

CORPUS = ["the quick brown fox jumps over the lazy dog", "once upon a time", "你好,世界。"] * 20
TEXTS = [
    "once upon a time",
    " two  spaces and\nlines\t",
    "你好,世界。天地玄黄",
    "smile 🙂👩‍👩‍👧 ok",
    "naïve café 12345",
    "",
]


@pytest.fixture(params=["byte_level", "prepended", "metaspace"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    kind: str = request.param
    if kind == "byte_level":
        Tokenizer.train(CORPUS, vocabulary_size=400).save(tmp_path)
        return tmp_path
    return fallback_folder(tmp_path, is_metaspace=kind == "metaspace")


def fallback_folder(folder: Path, *, is_metaspace: bool) -> Path:
    """Write a tokenizer of Llama 2's kind: `▁` for spaces, byte tokens, a begin token."""
    library = LibraryTokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    library.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    specials = ["<unk>", "<s>", "</s>"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=450, special_tokens=[*specials, *byte_tokens], show_progress=False
    )
    library.train_from_iterator(CORPUS[:2] * 20, trainer)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    library.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    if is_metaspace:
        library.normalizer = None
        library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    definition: dict[str, Any] = json.loads(library.to_str())
    definition["added_tokens"] = definition["added_tokens"][: len(specials)]
    fixed = LibraryTokenizer.from_str(json.dumps(definition))
    fixed.add_special_tokens([AddedToken(special, normalized=False) for special in specials])
    PreTrainedTokenizerFast(
        tokenizer_object=fixed, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("text", TEXTS)
def test_encodes_like_transformers(folder: Path, text: str) -> None:
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer.from_folder(folder)
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
    assert ours.encode_prompt(text)[: len(ours.prefix_ids)] == list(ours.prefix_ids)


@pytest.mark.parametrize("text", TEXTS)
def test_decodes_what_it_encoded(folder: Path, text: str) -> None:
    ours = Tokenizer.from_folder(folder)
    ids = ours.encode(text)
    assert ours.decode(ids) == AutoTokenizer.from_pretrained(folder).decode(ids)
    assert ours.decode(ids).lstrip() == text.lstrip()  # Metaspace itself loses a leading space


@pytest.mark.parametrize("text", TEXTS)
def test_streams_whole_characters(folder: Path, text: str) -> None:
    ours = Tokenizer.from_folder(folder)
    stream = ours.stream()
    ids = ours.encode(text)
    pieces = [stream.push(token_id) for token_id in ids]
    assert "".join(pieces) + stream.finish() == ours.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_continuation_joins_without_a_space(folder: Path) -> None:
    ours = Tokenizer.from_folder(folder)
    prompt, rest = ours.encode("once upon"), ours.encode(" a time", is_continuation=True)
    assert ours.decode([*prompt, *rest]) == "once upon a time"
    stream = ours.stream(after=prompt)
    assert "".join(map(stream.push, rest)) == " a time"
    glued = ours.encode("on a time", is_continuation=True)
    assert ours.decode([*ours.encode("once up"), *glued]) == "once upon a time"


def test_a_character_split_between_prompt_and_output_is_completed(folder: Path) -> None:
    ours = Tokenizer.from_folder(folder)
    ids = ours.encode("ok 🙂")
    stream = ours.stream(after=ids[:-1])
    assert stream.push(ids[-1]) == "🙂"


def test_special_tokens_split_like_transformers(folder: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer.from_folder(folder)
    special = theirs.eos_token
    text = f"once{special} upon {special}{special}a time"
    assert ours.encode(text, allow_special=True) == theirs.encode(text, add_special_tokens=False)
    assert theirs.eos_token_id not in ours.encode(text)
    assert ours.decode(ours.encode(text)) == text


def test_chat_renders_and_encodes_like_transformers(folder: Path) -> None:
    ours = Tokenizer.from_folder(folder)
    template = ChatTemplate.default(ours)
    template.save(folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    plain = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "你好 🙂"},
        {"role": "assistant", "content": "once upon"},
        {"role": "user", "content": " and then?\n"},
    ]
    messages = [ChatMessage(role=m["role"], content=m["content"]) for m in plain]  # type: ignore[arg-type]  # literals above
    rendered = theirs.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    assert template.render(messages, add_generation_prompt=True) == rendered
    expected = theirs.apply_chat_template(plain, add_generation_prompt=True)["input_ids"]
    assert template.encode(messages, ours) == expected


TOOL_TEMPLATE = """\
{%- if tools %}{% for tool in tools %}{{ tool | tojson }}
{% endfor %}{% endif -%}
{%- for m in messages -%}
<|im_start|>{{ m.role }}{% if m.tool_call_id is defined %} {{ m.tool_call_id }}{% endif %}

{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}
{{- m.content }}
{%- for call in m.tool_calls or [] %}
<tool_call>{{ call.id }} {{ call.function.name }} {{ call.function.arguments | tojson }}</tool_call>
{% endfor -%}
<|im_end|>
{% endfor -%}
{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def test_tools_and_calls_render_and_encode_like_transformers(folder: Path) -> None:
    ours = Tokenizer.from_folder(folder)
    template = ChatTemplate.for_tokenizer(TOOL_TEMPLATE, ours)
    template.save(folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    arguments = {"city": "Zürich <b> 🙂", "days": [1, 2.5, None]}
    function = {"name": "get_weather", "description": "é", "parameters": {"type": "object"}}
    call = {"name": "get_weather", "arguments": arguments}
    plain = [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [{"id": "call_1", "type": "function", "function": call}],
        },
        {"role": "tool", "content": "sunny", "tool_call_id": "call_1"},
    ]
    tools = [{"type": "function", "function": function}]
    expected = theirs.apply_chat_template(
        plain, tools=tools, add_generation_prompt=True, enable_thinking=False
    )["input_ids"]
    made = ToolCall(id="call_1", name="get_weather", arguments=json.dumps(arguments))
    messages = [
        ChatMessage(role="user", content="weather?"),
        ChatMessage(role="assistant", content="", reasoning="hm", tool_calls=(made,)),
        ChatMessage(role="tool", content="sunny", tool_call_id="call_1"),
    ]
    given = Tool(name="get_weather", definition=json.dumps(function), schema="{}")
    assert template.encode(messages, ours, tools=[given], enable_thinking=False) == expected


def test_a_training_row_begins_with_the_tokens_that_serving_reads(folder: Path) -> None:
    ours = Tokenizer.from_folder(folder)
    template = ChatTemplate.default(ours)
    roles: list[Literal["user", "assistant"]] = ["user", "assistant", "user", "assistant"]
    turns = [ChatMessage(role=role, content="once upon") for role in roles]
    prompt = template.encode(turns[:3], ours)
    assert template.training_rows(turns, ours).ids[: len(prompt)] == prompt


def test_the_models_end_token_wins_over_the_tokenizers(folder: Path) -> None:
    (folder / "config.json").write_text('{"eos_token_id": 5}', encoding="utf-8")
    assert Tokenizer.from_folder(folder).eos_ids == (5,)
    (folder / "generation_config.json").write_text('{"eos_token_id": [6, 7]}', encoding="utf-8")
    assert Tokenizer.from_folder(folder).eos_ids == (6, 7)
