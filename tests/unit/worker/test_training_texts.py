"""Texts become the tokens that serving would read."""

from pathlib import Path

from purvey.models.chat import ChatTemplate
from purvey.models.folder.json_file import read_object, write_object
from purvey.models.tokenizer import Tokenizer
from purvey.worker.training.texts import Encoder


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
