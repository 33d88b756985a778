"""Texts become the tokens that serving would read."""

from pathlib import Path

from purvey.contracts.engine import ChatMessage
from purvey.data.preferences import Preference
from purvey.models.chat import ChatTemplate
from purvey.models.folder.json_file import read_object, write_object
from purvey.models.tokenizer import Tokenizer
from purvey.worker.training.encoding import Encoder


def test_a_document_begins_as_a_prompt_does(tmp_path: Path) -> None:
    Tokenizer.train(["hello world"] * 9, vocabulary_size=270).save(tmp_path)
    config = read_object(tmp_path / "tokenizer_config.json")
    changes = {"bos_token": "<|im_start|>", "add_bos_token": True}
    write_object(tmp_path / "tokenizer_config.json", {**config, **changes})
    tokenizer = Tokenizer.from_folder(tmp_path)
    encoder = Encoder(tokenizer, ChatTemplate.default(tokenizer), max_tokens=64)
    prompt = tokenizer.encode_prompt("hello world")
    assert prompt[0] == tokenizer.bos_id
    for rows in (encoder.packed(["hello world"]), encoder.documents(["hello world"]).rows):
        assert rows[0].ids.tolist() == [*prompt, encoder.end_id]


def test_documents_are_never_joined() -> None:
    tokenizer = Tokenizer.train(["hello world"] * 9, vocabulary_size=270)
    encoder = Encoder(tokenizer, ChatTemplate.default(tokenizer), max_tokens=64)
    found = encoder.documents(["hello", "world"])
    assert (found.owners, found.num_documents) == ([0, 1], 2)
    texts = [tokenizer.decode(row.ids.tolist()) for row in found.rows]
    assert texts == ["hello", "world"]


def test_of_a_preference_only_the_last_answers_are_learned() -> None:
    tokenizer = Tokenizer.train(["hello world"] * 9, vocabulary_size=270)
    encoder = Encoder(tokenizer, ChatTemplate.default(tokenizer), max_tokens=256)
    prompt = (
        ChatMessage(role="user", content="one"),
        ChatMessage(role="assistant", content="two"),
        ChatMessage(role="user", content="three"),
    )
    pair = Preference(
        prompt=prompt,
        preferred=ChatMessage(role="assistant", content="hello"),
        rejected=ChatMessage(role="assistant", content="world"),
    )
    (row,) = encoder.preferences([pair])
    for side, answer in ((row.preferred, "hello"), (row.rejected, "world")):
        learned = tokenizer.decode(side.ids[side.is_target].tolist(), keep_special=True)
        assert learned == f"{answer}<|im_end|>"
        assert "two" in tokenizer.decode(side.ids.tolist())
    assert row.num_targets == row.preferred.num_targets + row.rejected.num_targets


def test_a_preference_that_does_not_fit_is_left_out_and_counted() -> None:
    tokenizer = Tokenizer.train(["hello world"] * 9, vocabulary_size=270)
    encoder = Encoder(tokenizer, ChatTemplate.default(tokenizer), max_tokens=40)
    short, long = (
        Preference(
            prompt=(ChatMessage(role="user", content="one"),),
            preferred=ChatMessage(role="assistant", content="hello"),
            rejected=ChatMessage(role="assistant", content="world" * count),
        )
        for count in (1, 99)
    )
    assert len(encoder.preferences([short, long, long])) == 1
    assert encoder.num_dropped == 2
