"""Texts made here: questions beside answers in other words, and labelled ones in two languages."""

import itertools
import random

Row = dict[str, str]
SLOTS: tuple[tuple[tuple[str, str], ...], ...] = (
    (
        *(("dog", "hound"), ("cat", "feline"), ("horse", "steed"), ("child", "kid")),
        *(("doctor", "physician"), ("robber", "thief"), ("sailor", "mariner")),
    ),
    (
        *(("buys", "purchases"), ("begins", "starts"), ("repairs", "mends"), ("hides", "buries")),
        *(("breaks", "smashes"), ("sells", "trades"), ("throws", "hurls")),
    ),
    (
        *(("car", "automobile"), ("house", "home"), ("stone", "rock"), ("present", "gift")),
        *(("picture", "image"), ("street", "road"), ("couch", "sofa")),
    ),
)
"""Who, what is done, to what: each word with another of the same meaning."""
ASKED = ("does the {} {} a {}?", "is it the {} that {} the {}?")
FOUND = ("a {2} is what one {0} {1}", "of the {2}: the {0} {1} it")
TOPICS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "weather": (
        ("rain", "storm", "wind", "snow", "cloud", "heat"),
        ("下雨", "刮风", "下雪", "晴天", "雷电", "寒冷"),
    ),
    "food": (
        ("rice", "bread", "soup", "fish", "noodle", "tea"),
        ("米饭", "面条", "鱼汤", "茶水", "包子", "水果"),
    ),
    "work": (
        ("meeting", "office", "salary", "report", "client", "deadline"),
        ("开会", "办公", "工资", "报告", "客户", "加班"),
    ),
}
_PHRASES = (
    ("today there is {} and again {}", "I think of {} before {}", "no {} without {}"),
    ("今天又是{}和{}", "我先想到{}再想到{}", "没有{}就没有{}"),
)


def paraphrases(*, seed: int = 0) -> list[Row]:
    """Return every combination of the slots once, as `question` and `answer`, in some order.

    Question and answer of a row share no word of a slot, so only what was learned joins them.
    """
    chance = random.Random(seed)  # noqa: S311 (test data)
    rows = []
    for chosen in itertools.product(*SLOTS):
        asked, found = zip(*chosen, strict=True)
        rows.append({
            "question": chance.choice(ASKED).format(*asked),
            "answer": chance.choice(FOUND).format(*found),
        })  # fmt: skip
    chance.shuffle(rows)
    return rows


def meaning(answer: str) -> tuple[str, ...]:
    """Return which words of the slots stand in an answer."""
    words = set(answer.replace(":", "").split())
    return tuple(found for slot in SLOTS for _, found in slot if found in words)


def topics(num_rows: int, *, language: int, seed: int = 0) -> list[Row]:
    """Return texts about one of three topics, as `text` and `topic`; language 1 is Chinese."""
    chance = random.Random(seed)  # noqa: S311 (test data)
    rows = []
    for _ in range(num_rows):
        topic = chance.choice(list(TOPICS))
        words = chance.sample(TOPICS[topic][language], 2)
        rows.append({"text": chance.choice(_PHRASES[language]).format(*words), "topic": topic})
    return rows
