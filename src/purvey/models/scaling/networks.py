"""Classifiers, encoders and recognisers grown into larger ones that answer the same."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from purvey.contracts.model import AudioSpec, ImageSpec, InputSpec
from purvey.contracts.sizes import check_parameters
from purvey.errors import InvalidValueError
from purvey.models.classifier import Classifier, build_classifier
from purvey.models.encoder.framing import bare
from purvey.models.encoder.module import EncoderModule
from purvey.models.scaling.filling import Filled, fill
from purvey.models.scaling.record import Growth
from purvey.models.scaling.rules import POST_NORM, Plan, Rule, plan_of
from purvey.models.skeleton import without_numbers
from purvey.models.speech.recogniser import SpeechModel, build_speech_model

_PROBE_ROWS, _PROBE_LENGTH = 4, 64
_ENCODER = Rule(
    tables=frozenset({"words.weight", "positions.weight", "types.weight"}), why_not_deeper=POST_NORM
)
Outputs = Callable[[nn.Module], Tensor]
"""What a network gives for inputs that stay the same."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be made of a base.

    Args:
        name: Of the base, for messages.
        width_factor: Times as wide.
        depth_factor: Times as many layers.
        generator: Of unequal shares, and of the inputs that two networks are compared on.
    """

    name: str
    width_factor: int
    depth_factor: int
    generator: torch.Generator

    def refusal(self, why: str, *, field: str = "width_factor") -> InvalidValueError:
        """Return what to raise where it cannot be made."""
        return InvalidValueError(
            f"{self.name!r} does not grow by model.{field}: {why}.", param=f"recipe.model.{field}"
        )


def grow_classifier(base: Classifier, asked: Asked) -> tuple[Classifier, Growth]:
    """Return a larger classifier with the same logits, up to rounding, and what was done.

    Args:
        base: Stays as it is.
        asked: How large.

    Raises:
        InvalidValueError: Networks of its kind do not grow that way, or so far.
    """
    if isinstance(base.module, EncoderModule):
        module, growth = grow_encoder(base.module, asked)
        return replace(base, module=module), growth
    manifest = base.manifest
    architecture = manifest.architecture or manifest.family
    plan = _plan(base.module, manifest.hyperparameters, asked)
    hyperparameters = plan.grown(manifest.hyperparameters, asked.width_factor, asked.depth_factor)
    large = _built(
        lambda: (
            build_classifier(
                task=manifest.task,
                labels=manifest.labels,
                architecture=architecture,
                hyperparameters=hyperparameters,
                inputs=manifest.inputs,
            ).module
        ),
        asked,
    )
    probe = _probe(manifest.inputs, base.module, asked.generator)
    growth = _grown(large, base.module, plan.rule, asked, lambda network: network(*probe))
    return replace(base.with_manifest(hyperparameters=hyperparameters), module=large), growth


def grow_recogniser(base: SpeechModel, asked: Asked) -> tuple[SpeechModel, Growth]:
    """As `grow_classifier`, for a recogniser; a deeper one hears further at every step."""
    manifest = base.manifest
    plan = _plan(base.module, manifest.hyperparameters, asked)
    hyperparameters = plan.grown(manifest.hyperparameters, asked.width_factor, asked.depth_factor)
    made = build_speech_model
    large = _built(
        lambda: (
            made(
                architecture=manifest.architecture,
                hyperparameters=hyperparameters,
                spec=base.spec,
                vocabulary=base.vocabulary,
            ).module
        ),
        asked,
    )
    x_BMF = torch.rand((_PROBE_ROWS, base.spec.num_mels, _PROBE_LENGTH), generator=asked.generator)
    frames_B = torch.linspace(_PROBE_LENGTH // 2, _PROBE_LENGTH, _PROBE_ROWS).long()
    # Past a recording's end nothing is meant.
    heard = torch.arange(_PROBE_LENGTH // 4)[None] < frames_B[:, None] // 4
    growth = _grown(
        large, base.module, plan.rule, asked, lambda network: network(x_BMF, frames_B)[heard]
    )
    grown = base.with_manifest(hyperparameters=hyperparameters)
    return replace(grown, module=large), growth


def grow_encoder(base: EncoderModule, asked: Asked) -> tuple[EncoderModule, Growth]:
    """As `grow_classifier`, for an encoder; without a head it is cosines that stay the same."""
    if asked.depth_factor > 1:
        raise asked.refusal(_ENCODER.why_not_deeper, field="depth_factor")
    config, factor = base.config, asked.width_factor
    larger = replace(
        config,
        hidden_size=config.hidden_size * factor,
        mlp_size=config.mlp_size * factor,
        num_heads=config.num_heads * factor,
    )

    def empty() -> EncoderModule:
        network = without_numbers(lambda: EncoderModule(larger))
        counted = sum(parameter.numel() for parameter in network.parameters())
        check_parameters(counted, f"{config.family!r}, {factor} times as wide")
        return network

    large = _built(empty, asked)
    length = min(config.max_tokens, _PROBE_LENGTH)
    tokens_BT = torch.randint(
        config.vocabulary_size, (_PROBE_ROWS, length), generator=asked.generator
    )
    texts = [bare(row) for row in tokens_BT.tolist()]

    def outputs(network: nn.Module) -> Tensor:
        assert isinstance(network, EncoderModule), "an encoder grows into an encoder"
        if config.has_head:
            zeros_T = torch.zeros(tokens_BT.numel(), dtype=torch.int64)
            logits_BL: Tensor = network(
                tokens_BT.flatten(), zeros_T, torch.full((_PROBE_ROWS,), length)
            )
            return logits_BL
        vectors_BD = network.vectors(texts, "mean")
        return vectors_BD @ vectors_BD.T

    return large, _grown(large, base, _ENCODER, asked, outputs)


def _plan(network: nn.Module, hyperparameters: Mapping[str, Any], asked: Asked) -> Plan:
    plan = plan_of(network, hyperparameters)
    if plan is None:
        raise asked.refusal("how a network of its kind grows is not known")
    if asked.depth_factor > 1 and plan.rule.why_not_deeper:
        raise asked.refusal(plan.rule.why_not_deeper, field="depth_factor")
    return plan


def _built(build: Callable[[], Any], asked: Asked) -> Any:  # noqa: ANN401 (what is built)
    """Build the large network; a size that is refused is the factor's fault."""
    try:
        return build()
    except InvalidValueError as error:
        field = "width_factor" if asked.width_factor > 1 else "depth_factor"
        raise asked.refusal(str(error).rstrip("."), field=field) from error


def _grown(
    large: nn.Module, small: nn.Module, rule: Rule, asked: Asked, outputs: Outputs
) -> Growth:
    filled: Filled = fill(
        large, small, rule, depth_factor=asked.depth_factor, generator=asked.generator
    )
    with torch.no_grad():
        large_out, small_out = (outputs(network.eval()) for network in (large, small))
    return Growth(
        width_factor=asked.width_factor,
        depth_factor=asked.depth_factor,
        parameters_before=sum(p.numel() for p in small.parameters()),
        parameters=sum(p.numel() for p in large.parameters()),
        kept=filled.changes["kept"],
        repeated=filled.changes["repeated"],
        divided=filled.changes["divided"],
        new_layers=filled.new_layers,
        largest_difference=float((large_out - small_out).abs().max()),
    )


def _probe(
    inputs: Mapping[str, InputSpec], network: nn.Module, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Return random inputs of a network that takes one picture, recording or text."""
    (spec,) = inputs.values()
    if isinstance(spec, ImageSpec):
        sizes = (_PROBE_ROWS, spec.channels, spec.height, spec.width)
        return (torch.rand(sizes, generator=generator),)
    if isinstance(spec, AudioSpec):
        sizes_BMF = (_PROBE_ROWS, spec.num_mels, _PROBE_LENGTH)
        return (torch.rand(sizes_BMF, generator=generator),)
    num_rows = len(network.get_parameter("table"))
    features_F = torch.randint(num_rows, (_PROBE_ROWS * _PROBE_LENGTH,), generator=generator)
    weights_F = torch.rand(len(features_F), generator=generator)
    return features_F, weights_F, torch.arange(0, len(features_F), _PROBE_LENGTH)
