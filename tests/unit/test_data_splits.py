"""Duplicates go, splits are drawn by content, nothing leaks from one to another."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purvey.contracts.data import Column, SplitConfig
from purvey.data.dedupe import deduplicate
from purvey.data.splits import split_rows
from purvey.errors import InvalidValueError

COLUMNS = (Column(name="text", kind="text"), Column(name="label", kind="label"))


def groups_of(texts: list[str]) -> list[bytes]:
    return [text.encode() for text in texts]


def test_equal_rows_go_and_are_counted() -> None:
    values = {"text": ["a", "b", "a", "a"], "label": ["x", "y", "x", "y"]}
    found = deduplicate(values, COLUMNS, removed="exact")
    assert found.kept == [0, 1, 3]
    assert (found.num_removed, found.num_conflicts) == (1, 1)
    assert found.groups[0] == found.groups[2] != found.groups[1]
    assert deduplicate(values, COLUMNS, removed=None).kept == [0, 1, 2, 3]


def test_a_rows_own_number_makes_no_second_message_of_it() -> None:
    columns = (*COLUMNS, Column(name="ticket", kind="number"))
    values: dict[str, list[str | float | bytes]] = {
        "text": ["a", "a", "b"],
        "label": ["x", "x", "x"],
        "ticket": [1.0, 2.0, 3.0],
    }
    found = deduplicate(values, columns, removed="exact")
    assert found.kept == [0, 1, 2], "the rows are not equal"
    assert found.groups[0] == found.groups[1] != found.groups[2], "but they stay on one side"


def test_columns_cannot_be_confused_with_each_other() -> None:
    columns = (Column(name="a", kind="text"), Column(name="b", kind="text"))
    found = deduplicate({"a": ["xy", "x"], "b": ["z", "yz"]}, columns, removed="exact")
    assert found.num_removed == 0


def conversation(*turns: str) -> str:
    """Turns in the form `role: content`, as the converter writes them."""
    split = (turn.split(": ") for turn in turns)
    return json.dumps([{"role": role, "content": content} for role, content in split])


CHAT = (Column(name="messages", kind="conversation"),)


def test_answers_to_one_prompt_stay_together_and_none_is_lost() -> None:
    values = {
        "messages": [
            conversation("system: Be brief", "user: Why?", "assistant: Because"),
            conversation("system: Be brief", "user: Why?", "assistant: No idea", "user: Thanks"),
            conversation("system: Be brief", "user: How?", "assistant: Because"),
            conversation("system: Be brief", "user: Why?", "assistant: Because"),
        ]
    }
    found = deduplicate(values, CHAT, removed="exact")
    assert found.kept == [0, 1, 2]
    assert (found.num_removed, found.num_conflicts) == (1, 0)
    assert found.groups[0] == found.groups[1] != found.groups[2]


def test_only_the_last_answer_is_not_part_of_the_prompt() -> None:
    first = ("user: Why?", "assistant: Because", "user: Really?", "assistant: Yes")
    values = {
        "messages": [
            conversation(*first),
            conversation(*first[:3], "assistant: No"),
            conversation("user: Why?", "assistant: No idea", *first[2:]),
        ]
    }
    groups = deduplicate(values, CHAT, removed="exact").groups
    assert groups[0] == groups[1] != groups[2]


def test_conversations_that_nobody_asked_for_are_not_one_group() -> None:
    values = {
        "messages": [
            conversation("system: Tell stories", "assistant: Once"),
            conversation("system: Tell stories", "assistant: There was"),
        ]
    }
    first, second = deduplicate(values, CHAT, removed="exact").groups
    assert first != second


@given(
    labels=st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=200),
    seed=st.integers(0, 2**63 - 1),
    validation=st.floats(0, 0.49),
    test=st.floats(0, 0.5),
    duplicates=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_every_row_is_on_one_side_and_equal_inputs_together(
    labels: list[str], seed: int, validation: float, test: float, duplicates: int
) -> None:
    groups = groups_of([str(row // duplicates) for row in range(len(labels))])
    config = SplitConfig(validation=validation, test=test)
    rows = split_rows(groups, labels=labels, config=config, seed=seed)
    assert sorted(row for chosen in rows.values() for row in chosen) == list(range(len(labels)))
    sides = {split: {groups[row] for row in chosen} for split, chosen in rows.items()}
    assert not sides["train"] & sides["test"]
    assert not sides["train"] & sides["validation"]
    assert not sides["validation"] & sides["test"]
    assert rows["train"]


def test_shares_of_labels_are_kept() -> None:
    labels = ["rare"] * 20 + ["common"] * 180
    rows = split_rows(
        groups_of([str(i) for i in range(200)]), labels=labels, config=SplitConfig(), seed=1
    )
    for split in ("validation", "test"):
        assert Counter(labels[row] for row in rows[split]) == {"rare": 2, "common": 18}


def test_every_label_trains() -> None:
    labels = ["once", *["often"] * 9]
    config = SplitConfig(validation=0.45, test=0.45)
    for seed in range(20):
        rows = split_rows(groups_of(list("abcdefghij")), labels=labels, config=config, seed=seed)
        assert 0 in rows["train"]


def test_the_seed_decides_and_order_does_not() -> None:
    groups = groups_of([str(i) for i in range(100)])
    config = SplitConfig()
    first = split_rows(groups, labels=None, config=config, seed=1)
    backwards = split_rows(groups[::-1], labels=None, config=config, seed=1)
    other = split_rows(groups, labels=None, config=config, seed=2)
    assert {groups[i] for i in first["test"]} == {groups[::-1][i] for i in backwards["test"]}
    assert first["test"] != other["test"]


def test_fractions_must_leave_rows_to_train_on() -> None:
    with pytest.raises(InvalidValueError, match="leave no rows") as caught:
        split_rows([b"a"], labels=None, config=SplitConfig(validation=0.5, test=0.5), seed=0)
    assert caught.value.param == "splits"
