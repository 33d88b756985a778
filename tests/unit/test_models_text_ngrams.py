"""Hashed n-grams: the same everywhere, in every script, and enough to learn from little."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purvey.models.text_ngrams import TextNgrams, collate, featurise

BUCKETS = 2**16


def features(text: str) -> set[int]:
    hashed, _ = featurise(text, buckets=BUCKETS, max_bytes=10_000)
    return set(hashed.tolist())


@given(st.text(max_size=200))
def test_any_text_has_bounded_features(text: str) -> None:
    hashed, weights = featurise(text, buckets=97, max_bytes=100)
    assert hashed.dtype == torch.int32
    assert hashed.shape == weights.shape
    assert bool(((hashed >= 0) & (hashed < 97)).all())
    assert bool((weights > 0).all())
    assert float(weights.square().sum()) <= 2.001  # characters and words, length 1 each


def test_hashes_are_the_same_in_another_process() -> None:
    text = "Free entry 你好 🙂"
    program = (
        "from purvey.models.text_ngrams import featurise;"
        f"print(featurise({text!r}, buckets={BUCKETS}, max_bytes=999)[0].tolist())"
    )
    command = [sys.executable, "-c", program]
    other = subprocess.run(command, capture_output=True, text=True, check=True, env={})
    assert other.stdout.strip() == str(featurise(text, buckets=BUCKETS, max_bytes=999)[0].tolist())


def test_kinds_and_orders_are_told_apart() -> None:
    assert features("ab") != features("ba")
    assert features("not good but bad") != features("not bad but good")
    assert features("FREE") != features("free")
    assert features("call 0912") == features("call 7734")
    assert features("ｆｒｅｅ") == features("ＦＲＥＥ".lower())  # noqa: RUF001 (full width on purpose)


def test_cutting_counts_bytes_and_splits_no_character() -> None:
    long, _ = featurise("你好世界", buckets=BUCKETS, max_bytes=7)
    short, _ = featurise("你好", buckets=BUCKETS, max_bytes=999)
    assert torch.equal(long, short)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    network = TextNgrams(num_classes=3).eval()
    items = [featurise(t, buckets=BUCKETS, max_bytes=99) for t in ("one", "", "two three", "你")]
    together = network(*collate(items))
    for index, item in enumerate(items):
        alone = network(*collate([item]))[0]
        # The head's float32 sums of 16 terms run in another order at another batch size.
        assert (alone - together[index]).abs().max() < 1e-6


SMALL = {
    "english": (
        ["win a free prize now", "claim your cash reward", "free entry call now", "urgent prize"],
        ["see you at lunch", "are you home yet", "thanks for the help", "running late sorry"],
        ["free cash prize", "see you at home"],
    ),
    "chinese": (
        [
            "恭喜您中奖了,请点击领取",
            "免费贷款,立即办理",
            "限时优惠,点击领取大奖",
            "免费办理大额贷款",
        ],
        ["晚上一起吃饭吗", "我到家了,你呢", "明天开会别迟到", "今天晚上几点到家"],
        ["点击领取免费大奖", "明天晚上一起吃饭"],
    ),
}


@pytest.mark.parametrize("language", SMALL)
def test_learns_from_eight_rows(language: str) -> None:
    first, second, unseen = SMALL[language]
    torch.manual_seed(0)
    network = TextNgrams(num_classes=2)
    batch = collate([featurise(t, buckets=BUCKETS, max_bytes=999) for t in first + second])
    targets = torch.tensor([0] * len(first) + [1] * len(second))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(*batch), targets)
        torch.autograd.backward(loss)
        optimizer.step()
    tried = collate([featurise(t, buckets=BUCKETS, max_bytes=999) for t in unseen])
    assert network(*tried).argmax(dim=-1).tolist() == [0, 1]
