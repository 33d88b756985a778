"""The built-in image networks: any size, one image at a time, and every hyperparameter checked."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from purvey.contracts.model import ImageSpec, InputSpec, NumberSpec
from purvey.contracts.recipe_parts.building import InitScheme
from purvey.errors import InvalidValueError
from purvey.models.classifier import Classifier, build_classifier, load_classifier, save_classifier
from purvey.models.folder.config_fields import Fields
from purvey.models.initialise import initialise
from purvey.models.networks import convnet, resnet, vit
from purvey.models.networks.catalogue import find

NETWORKS = ("convnet", "resnet", "vit")
LABELS = tuple("abcdefghij")
SMALL: dict[str, dict[str, Any]] = {
    "convnet": {"width": 8, "depth": 1},
    "resnet": {"width": 8, "depth": 1},
    "vit": {"width": 16, "depth": 2, "heads": 2},
}


GREY = ImageSpec(height=8, width=8, channels=1)


def built(architecture: str, spec: ImageSpec = GREY, **values: Any) -> Classifier:
    torch.manual_seed(3)
    return build_classifier(
        task="image-classification",
        labels=LABELS,
        architecture=architecture,
        hyperparameters={**SMALL[architecture], **values},
        inputs={"input": spec},
    )


def images(num_images: int, spec: ImageSpec = GREY) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_images)
    shape = (num_images, spec.channels, spec.height, spec.width)
    return torch.rand(shape, generator=generator)


def with_any_head(network: nn.Module) -> nn.Module:
    """Give the head weights, where it begins without: logits then depend on the image."""
    head = network.head
    assert isinstance(head, nn.Linear)
    nn.init.normal_(head.weight)
    return network


@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize(
    ("height", "width", "channels"),
    [(8, 8, 1), (4, 4, 3), (28, 28, 1), (1, 3, 3), (33, 17, 3), (8, 300, 1), (224, 224, 3)],
)
def test_every_size_of_image_goes_in(
    architecture: str, height: int, width: int, channels: int
) -> None:
    spec = ImageSpec(height=height, width=width, channels=channels)
    network = built(architecture, spec)
    x_BCHW = images(2, spec)
    logits_BL = with_any_head(network.module)(x_BCHW)
    assert logits_BL.shape == (2, len(LABELS))
    assert torch.isfinite(logits_BL).all()
    assert not torch.equal(logits_BL[0], logits_BL[1])


@pytest.mark.parametrize("architecture", NETWORKS)
def test_an_image_is_seen_alone(architecture: str) -> None:
    """In training too: so parts of a batch add up to its gradient, on one machine or on many."""
    network = with_any_head(built(architecture).module).train()
    x_BCHW = images(5)
    together_BL = network(x_BCHW)
    alone_BL = torch.cat([network(x_CHW[None]) for x_CHW in x_BCHW])
    # The same sums in another order: some hundred terms of size 1, at 2^-24 each.
    torch.testing.assert_close(together_BL, alone_BL, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", NETWORKS)
def test_dropout_is_of_training_alone(architecture: str) -> None:
    network = with_any_head(built(architecture, dropout=0.5).module)
    x_BCHW = images(3)
    assert not torch.equal(network(x_BCHW), network(x_BCHW))
    network.eval()
    assert torch.equal(network(x_BCHW), network(x_BCHW))


@pytest.mark.parametrize("architecture", NETWORKS)
def test_a_saved_network_is_the_same_when_loaded(architecture: str, tmp_path: Path) -> None:
    spec = ImageSpec(height=9, width=12)
    network = built(architecture, spec)
    with_any_head(network.module).eval()
    save_classifier(network, tmp_path)
    again = load_classifier(tmp_path)
    assert again.manifest == network.manifest
    x_BCHW = images(2, spec)
    assert torch.equal(again.module(x_BCHW), network.module(x_BCHW))


@pytest.mark.parametrize("architecture", NETWORKS)
def test_counting_takes_nothing_from_chance(architecture: str) -> None:
    """What is built within the limits has the weights of what is built without looking at them."""
    first = built(architecture).module
    torch.manual_seed(3)
    values = SMALL[architecture]
    fields = Fields(values, error=InvalidValueError)
    inputs: dict[str, InputSpec] = {"input": GREY}
    again = find(architecture, task="image-classification").build(inputs, len(LABELS), fields)
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("architecture", "values", "named"),
    [
        *((name, {"wdith": 8}, "wdith") for name in NETWORKS),
        *((name, {"width": 0}, "width") for name in NETWORKS),
        *((name, {"width": 10**9}, "width") for name in NETWORKS),
        *((name, {"depth": 513}, "depth") for name in NETWORKS),
        *((name, {"depth": True}, "depth") for name in NETWORKS),
        *((name, {"dropout": 1}, "dropout") for name in NETWORKS),
        *((name, {"dropout": math.nan}, "dropout") for name in NETWORKS),
        ("convnet", {"width": 12}, "width"),
        ("resnet", {"stages": 9}, "stages"),
        ("convnet", {"heads": 2}, "heads"),
        ("vit", {"width": 18}, "width"),
        ("vit", {"heads": 3}, "heads"),
        ("vit", {"patch": 128}, "patch"),
        ("vit", {"patch": 3}, "patch"),
        ("vit", {"stages": 2}, "stages"),
    ],
)
def test_a_wrong_hyperparameter_is_refused(
    architecture: str, values: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidValueError) as refusal:
        built(architecture, **values)
    assert refusal.value.param == f"model.hyperparameters.{named}"


def test_too_many_patches_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="65536 patches") as refusal:
        built("vit", ImageSpec(height=512, width=512), patch=2)
    assert refusal.value.param == "model.hyperparameters.patch"


@pytest.mark.parametrize(
    ("architecture", "values"),
    [
        ("convnet", {"width": 8_192, "depth": 8}),
        ("resnet", {"width": 1_024, "stages": 8, "depth": 2}),
        ("vit", {"width": 8_192, "depth": 8}),
    ],
)
def test_a_network_that_no_host_holds_is_refused_before_it_is_built(
    architecture: str, values: dict[str, Any]
) -> None:
    with pytest.raises(InvalidValueError, match="parameters") as refusal:
        built(architecture, **values)
    assert refusal.value.param == "recipe.model.hyperparameters"


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"age": NumberSpec()},
        {"photo": ImageSpec(height=8, width=8), "age": NumberSpec()},
        {"input": ImageSpec(height=0, width=8)},
        {"input": ImageSpec(height=8, width=10**9)},
        {"input": ImageSpec(height=8, width=8, channels=2)},
    ],
)
@pytest.mark.parametrize("architecture", NETWORKS)
def test_what_is_not_one_image_is_refused(architecture: str, inputs: dict[str, InputSpec]) -> None:
    with pytest.raises(InvalidValueError):
        build_classifier(
            task="image-classification",
            labels=LABELS,
            architecture=architecture,
            inputs=inputs,
        )


@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize("scheme", ["default", "kaiming_normal", "xavier_uniform", "normal_002"])
def test_every_scheme_begins_near_chance_and_leaves_nothing_dead(
    architecture: str, scheme: InitScheme
) -> None:
    """A network that guesses has a loss of ln L; one that is sure of nonsense far more."""
    network = built(architecture).module
    initialise(network, scheme, generator=torch.Generator().manual_seed(0))
    before = [parameter.detach().clone() for parameter in network.parameters()]
    x_BCHW, wanted_B = images(20), torch.arange(20) % len(LABELS)
    losses = []
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(8):
        loss = cross_entropy(network(x_BCHW), wanted_B)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert losses[0] < 2 * math.log(len(LABELS))
    assert min(losses) < losses[0]
    for (name, after), start in zip(network.named_parameters(), before, strict=True):
        # A bias of keys moves all scores of a query alike, which the softmax does not see.
        if not name.endswith("key.bias"):
            assert not torch.equal(after, start), name


def test_a_residual_block_begins_as_its_shortcut() -> None:
    torch.manual_seed(0)
    x_BCHW = torch.randn(2, 8, 6, 6)
    assert torch.equal(resnet.Block(8, 8, stride=1)(x_BCHW), x_BCHW.relu())
    halved = resnet.Block(8, 16, stride=2)
    assert torch.equal(halved(x_BCHW), halved.shortcut(x_BCHW).relu())
    assert halved(x_BCHW).shape == (2, 16, 3, 3)


def test_a_layer_of_the_transformer_is_torchs() -> None:
    torch.manual_seed(0)
    ours = vit.Layer(16, heads=4, dropout=0.0)
    theirs = nn.TransformerEncoderLayer(
        16, 4, 64, dropout=0.0, activation="gelu", layer_norm_eps=1e-6,
        batch_first=True, norm_first=True,
    )  # fmt: skip
    of = ours.attention
    theirs.self_attn.in_proj_weight.data = torch.cat(
        [of.query.weight, of.key.weight, of.value.weight]
    )
    for name, module in {
        "self_attn.out_proj": of.output,
        "linear1": ours.up,
        "linear2": ours.down,
        "norm1": ours.attention_norm,
        "norm2": ours.mlp_norm,
    }.items():
        theirs.get_submodule(name).load_state_dict(module.state_dict())
    x_BND = torch.randn(3, 7, 16)
    # Sums of 64 terms of size 1 at most, each rounded at 2^-24, in two orders.
    torch.testing.assert_close(ours(x_BND), theirs(x_BND), rtol=1e-5, atol=1e-5)


def test_a_patchs_place_matters_and_all_places_differ() -> None:
    spec = ImageSpec(height=8, width=12, channels=1)
    network = built("vit", spec, patch=2).module
    assert isinstance(network, vit.ViT)
    positions_ND = network.positions
    assert positions_ND.shape == (4 * 6, 16)
    assert len({tuple(row) for row in positions_ND.tolist()}) == 4 * 6
    # One row down is the same change everywhere: sin and cos of the row stand in the first half.
    assert torch.equal(positions_ND[0, :8], positions_ND[5, :8])
    assert torch.equal(positions_ND[1, 8:], positions_ND[7, 8:])
    with_any_head(network)
    x_BCHW = images(1, spec)
    assert not torch.allclose(network(x_BCHW), network(x_BCHW.roll(2, dims=-1)))


def test_pixels_beyond_the_last_whole_patch_count() -> None:
    spec = ImageSpec(height=9, width=9, channels=1)
    network = with_any_head(built("vit", spec, patch=4).module)
    x_BCHW = images(1, spec)
    changed_BCHW = x_BCHW.clone()
    changed_BCHW[..., -1, -1] += 1
    assert not torch.equal(network(x_BCHW), network(changed_BCHW))


def test_width_and_depth_scale_a_network() -> None:
    for architecture, double in (("convnet", 16), ("resnet", 16), ("vit", 32)):
        base = built(architecture, depth=2).num_parameters
        assert 3 < built(architecture, depth=2, width=double).num_parameters / base < 4.2
        assert built(architecture, depth=4).num_parameters > 1.5 * base


def test_the_reference_names_every_hyperparameter() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "architectures.md"
    sections = page.read_text(encoding="utf-8").split("\n## ")
    for module in (convnet, resnet, vit):
        [section] = [s for s in sections if s.startswith(f"`{module.ARCHITECTURE.name}`")]
        named = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
        assert tuple(named) == module.HYPERPARAMETERS
