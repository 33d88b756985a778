"""The fusion network: rows that stand alone, padding that says nothing, refusals by name."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from purvey.contracts.model import (
    AudioSpec,
    CategorySpec,
    ImageSpec,
    InputSpec,
    NumberSpec,
    TextSpec,
)
from purvey.errors import InvalidValueError
from purvey.models.folder.config_fields import Fields
from purvey.models.networks.fusion import JOINTS, Product, build
from purvey.models.networks.modalities import MOST_TEXT_BYTES, Tokens, encoder_of

SPECS: dict[str, InputSpec] = {
    "photo": ImageSpec(height=20, width=33),
    "sound": AudioSpec(sample_rate_hz=4_000, max_s=0.7, num_mels=16),
    "note": TextSpec(max_bytes=150),
    "age": NumberSpec(),
    "site": CategorySpec(values=("north", "south")),
}
SHAPES: dict[str, tuple[int, ...]] = {"photo": (3, 20, 33), "sound": (16, 71), "note": (150,)}


def network(how: str, specs: dict[str, InputSpec] | None = None, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    given = {"how": how, "width": 32, "depth": 2, **more}
    fields = Fields(given, error=InvalidValueError, at="model.hyperparameters.")
    return build(SPECS if specs is None else specs, 3, fields).eval()


def rows(number: int, names: Sequence[str] = tuple(SPECS)) -> list[Tensor]:
    chance = torch.Generator().manual_seed(7)
    made = {
        "photo": torch.rand(number, *SHAPES["photo"], generator=chance),
        "sound": torch.randn(number, *SHAPES["sound"], generator=chance),
        "note": torch.randint(1, 257, (number, 150), generator=chance),
        "age": torch.randn(number, generator=chance),
        "site": torch.arange(number) % 3,
    }
    lengths = torch.arange(number) * 37 % 151
    made["note"][torch.arange(150) >= lengths[:, None]] = 0
    return [made[name] for name in names]


@pytest.mark.parametrize("how", JOINTS)
def test_a_row_is_the_same_alone_and_in_company(how: str) -> None:
    made, inputs = network(how), rows(9)
    together = made(*inputs)
    alone = torch.cat([made(*(x[row : row + 1] for x in inputs)) for row in range(9)])
    assert together.shape == (9, 3)
    # Kernels for one and for many rows sum in other orders: float32 rounding of sums of about 1.
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize("how", JOINTS)
@pytest.mark.parametrize("name", SPECS)
def test_every_input_counts_and_is_enough(how: str, name: str) -> None:
    made, inputs = network(how, {name: SPECS[name]}), rows(6, [name])
    outputs = made(*inputs)
    assert outputs.shape == (6, 3)
    assert outputs.std(dim=0).min() > 1e-5
    outputs.sum().backward()
    assert all(p.grad is not None for p in made.parameters())


@pytest.mark.parametrize("how", JOINTS)
def test_the_length_of_the_padding_changes_nothing(how: str) -> None:
    text = "图里是什么? what is it?".encode()
    codes = torch.tensor([[byte + 1 for byte in text]])
    for longer in (60, 64):
        made = network(how, {"note": TextSpec(max_bytes=longer)})
        padded = nn.functional.pad(codes, (0, longer - len(text)))
        shorter = network(how, {"note": TextSpec(max_bytes=len(text))})
        weights = {k: v[: len(text)] if "place" in k else v for k, v in made.state_dict().items()}
        shorter.load_state_dict(weights)
        torch.testing.assert_close(made(padded), shorter(codes), rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 129, 1_000, MOST_TEXT_BYTES])
def test_a_text_of_any_length_has_few_tokens_and_loses_no_byte(length: int) -> None:
    torch.manual_seed(1)
    encoder = encoder_of(TextSpec(max_bytes=length), width=32)
    codes = torch.randint(1, 257, (1, length))
    tokens = encoder(codes)
    assert tokens.x.shape[1] <= 64
    assert bool(tokens.is_real.all())
    for place in {0, length // 2, length - 1}:
        other = codes.clone()
        other[0, place] = codes[0, place] % 256 + 1
        assert not torch.equal(encoder(other).x, tokens.x), place


@pytest.mark.parametrize("how", JOINTS)
def test_an_empty_text_is_finite(how: str) -> None:
    made = network(how, {"note": TextSpec(max_bytes=90), "age": NumberSpec()})
    outputs = made(torch.zeros(2, 90, dtype=torch.int64), torch.tensor([0.0, 1.0]))
    assert torch.isfinite(outputs).all()


@pytest.mark.parametrize("how", JOINTS)
def test_a_number_of_any_size_is_finite(how: str) -> None:
    made = network(how, {"age": NumberSpec()})
    outputs = made(torch.tensor([1e38, float("inf"), 100.0, -float("inf")]))
    assert torch.equal(outputs[:2], outputs[2:3].expand(2, -1))
    assert torch.isfinite(outputs).all()


def test_a_category_that_training_has_not_seen_says_nothing() -> None:
    encoder = encoder_of(SPECS["site"], width=32)
    assert not encoder(torch.tensor([0])).x.any()
    assert encoder(torch.tensor([1])).x.any()


@pytest.mark.parametrize(
    ("height", "width", "tokens"),
    [(4, 4, 16), (8, 8, 64), (9, 8, 40), (64, 64, 64), (4, 1_024, 32)],
)
def test_a_picture_of_any_size_has_few_tokens(height: int, width: int, tokens: int) -> None:
    spec = ImageSpec(height=height, width=width, channels=1)
    encoder = encoder_of(spec, width=32)
    assert encoder(torch.rand(1, 1, height, width)).x.shape == (1, tokens, 32)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"widht": 64}, "widht"),
        ({"how": "addition"}, "how"),
        ({"width": 48}, "width"),
        ({"width": 2_048}, "width"),
        ({"depth": 0}, "depth"),
        ({"depth": 33}, "depth"),
        ({"dropout": 1}, "dropout"),
        ({"dropout": True}, "dropout"),
    ],
)
def test_a_wrong_hyperparameter_is_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidValueError) as refusal:
        network(**({"how": "concatenation"} | given))
    assert refusal.value.param == f"model.hyperparameters.{named}"


@pytest.mark.parametrize(
    ("spec", "param"),
    [
        (AudioSpec(num_mels=0), "recipe.preprocess.audio.num_mels"),
        (TextSpec(max_bytes=MOST_TEXT_BYTES + 1), "recipe.preprocess.text.max_bytes"),
    ],
)
def test_an_input_that_is_not_taken_is_refused(spec: InputSpec, param: str) -> None:
    with pytest.raises(InvalidValueError) as refusal:
        network("concatenation", {"x": spec})
    assert refusal.value.param == param


def test_there_is_at_least_one_input() -> None:
    with pytest.raises(InvalidValueError, match="at least one input"):
        network("concatenation", {})


def test_a_product_holds_every_pair() -> None:
    torch.manual_seed(2)
    joint = Product(num_inputs=3, width=32, depth=1, dropout=0.0)
    seen: list[Tensor] = []
    joint.entry.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    joint([Tokens(torch.randn(4, 2, 32), torch.ones(4, 2, dtype=torch.bool)) for _ in range(3)])
    a, b, c, pairs = seen[0].chunk(4, dim=1)
    # Sums of six products of values up to 1 in float32.
    torch.testing.assert_close(pairs, a * b + a * c + b * c, rtol=0, atol=1e-5)
