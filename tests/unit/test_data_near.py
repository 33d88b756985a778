"""Near duplicates: what is nearly the same text or picture, in any language, and what is not."""

import io
import random

import pytest
from PIL import Image, ImageEnhance

from purvey.contracts.data import Column
from purvey.data.convert import Value
from purvey.data.dedupe import deduplicate
from purvey.data.near.images import near_images
from purvey.data.near.texts import near_texts, similarity

LETTERS = "the committee will meet on thursday to discuss the budget of the new library"
CHINESE = "委员会将于星期四开会讨论新图书馆的预算问题并决定下一年度的采购计划"
WORDS = ["river", "stone", "paper", "cloud", "garden", "winter", "music", "bridge", "silver"]


@pytest.mark.parametrize("text", [LETTERS, CHINESE])
def test_one_character_more_is_near_and_another_sentence_is_not(text: str) -> None:
    changed = text[:9] + ("a" if text.isascii() else "大") + text[9:]
    other = " ".join(reversed(text.split())) if text.isascii() else text[::-1]
    assert near_texts([text, other, changed, f"  {text.upper()}\n"]) == [0, 1, 0, 0]
    assert similarity(text, changed) >= 0.8 > similarity(text, other)


def test_short_texts_that_differ_are_not_near() -> None:
    texts = ["ok", "no", "on", "好", "不好", "很好", "yes", "yes!", "?", "room 12", "room 13"]
    assert near_texts(texts) == list(range(len(texts)))


def test_what_is_near_is_found_among_many() -> None:
    chance = random.Random(4)  # noqa: S311 (made data)
    texts = [" ".join(chance.choices(WORDS, k=20)) for _ in range(100)]
    copies = [text.replace("e", "E").replace("river", "rivers") for text in texts]
    near = [similarity(text, copy) >= 0.8 for text, copy in zip(texts, copies, strict=True)]
    assert sum(near) > 60
    first = near_texts(texts + copies)
    assert first[: len(texts)] == list(range(len(texts)))
    joined = [first[len(texts) + number] == number for number in range(len(texts))]
    assert joined == near, "every pair above the threshold, and none below it"


def picture(seed: int, side: int = 96) -> Image.Image:
    chance = random.Random(seed)  # noqa: S311 (made data)
    small = Image.frombytes("RGB", (6, 6), bytes(chance.randrange(256) for _ in range(108)))
    return small.resize((side, side), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "PNG", **options: int) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def test_a_picture_is_known_again_in_another_size_format_and_light() -> None:
    one, two = picture(1), picture(2)
    brighter = ImageEnhance.Brightness(one).enhance(1.03)
    images = [
        encoded(one),
        encoded(two),
        encoded(one.resize((64, 64), Image.Resampling.LANCZOS)),
        encoded(one, "JPEG", quality=60),
        encoded(brighter),
        *(encoded(picture(seed)) for seed in range(3, 30)),
    ]
    assert near_images(images) == [0, 1, 0, 0, 0, *range(5, len(images))]


def test_flat_moved_and_tiny_pictures_are_told_apart() -> None:
    def square(x: int) -> Image.Image:
        image = Image.new("L", (32, 32), 255)
        image.paste(0, (x, 10, x + 6, 16))
        return image

    flat = [encoded(Image.new("L", (40, 40), shade)) for shade in (0, 10, 20)]
    moved = [encoded(square(x)) for x in (2, 10, 20)]
    tiny = [encoded(picture(1, side)) for side in (30, 31)]
    images = [*flat, *moved, *tiny]
    assert near_images(images) == list(range(len(images)))


def test_near_rows_share_a_side_and_go_only_when_asked() -> None:
    columns = (Column(name="text", kind="text"), Column(name="label", kind="label"))
    texts: list[Value] = [LETTERS, f"{LETTERS}!", CHINESE, LETTERS, f"{LETTERS}?", f"{LETTERS}!"]
    values = {"text": texts, "label": list[Value](["a", "a", "a", "a", "b", "a"])}
    kept = deduplicate(values, columns, removed="exact")
    assert (kept.kept, kept.num_removed, kept.num_near) == ([0, 1, 2, 4], 2, 2)
    assert kept.groups[0] == kept.groups[1] == kept.groups[3] != kept.groups[2]
    cleaned = deduplicate(values, columns, removed="near")
    assert cleaned.kept == [0, 2, 4], "the last one has another label"
    assert (cleaned.num_removed, cleaned.num_near_removed) == (2, 1)
    turned = {name: cells[::-1] for name, cells in values.items()}
    assert set(deduplicate(turned, columns, removed=None).groups) == set(kept.groups)
