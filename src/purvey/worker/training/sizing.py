"""A model at the size that a recipe's factors ask for: fresh weights scaled, a base grown."""

from purvey.errors import InvalidCheckpointError
from purvey.models.classifier import Classifier
from purvey.models.encoder.module import EncoderModule
from purvey.models.language import LanguageModel
from purvey.models.networks.building import build_network
from purvey.models.scaling.growth import grow
from purvey.models.scaling.mup import (
    AS_IN_BASE,
    Reaches,
    decoder_reaches,
    network_reaches,
    rescale,
)
from purvey.models.scaling.networks import Asked, grow_classifier, grow_encoder, grow_recogniser
from purvey.models.scaling.record import Growth
from purvey.models.skeleton import without_numbers
from purvey.models.speech.recogniser import SpeechModel
from purvey.worker.training.run import TrainingRun

_WIDTH = "mup_width_factor"
"""In a model's lineage: how many times as wide it is as what its learning rate is for."""
_GROWN = "grown"
"""In a model's lineage: what growing did to its base."""


def sized(run: TrainingRun, model: LanguageModel) -> tuple[LanguageModel, Reaches]:
    """Grow a base, or scale fresh weights, as the recipe says; at its defaults, do neither.

    The lineage will say what was done.

    Args:
        run: The job.
        model: Just drawn by the standard scheme at its full size, or the base as it is registered.

    Returns:
        The model as its training begins, and the reach of its weights.

    Raises:
        InvalidValueError: The base would become larger than the limits table allows.
        InvalidCheckpointError: What its manifest says of its width is no whole number.
    """
    is_fresh = run.config.model.base is None
    width = _mup_width(run, model)
    if width is not None:
        run.notes[_WIDTH] = width
    if not is_fresh:
        model = _grown(run, model)
    if run.config.model.scaling == "standard" or width is None:
        return model, AS_IN_BASE
    reaches = decoder_reaches(model.decoder, width)
    if is_fresh:
        rescale(model.decoder, reaches, falls_with_inputs=False)
    return model, reaches


def network_reaches_of(run: TrainingRun, classifier: Classifier) -> Reaches:
    """Scale a built-in network's fresh weights as the recipe says, and return their reaches.

    Args:
        run: The job.
        classifier: Just drawn by a scheme whose deviation falls with the root of a layer's inputs.
    """
    if run.config.model.scaling == "standard":
        return AS_IN_BASE
    manifest = classifier.manifest
    base = without_numbers(
        lambda: build_network(
            manifest.architecture or "",
            task=manifest.task,
            inputs=manifest.inputs,
            num_outputs=len(manifest.labels),
            hyperparameters=run.config.model.hyperparameters,
        )
    )
    reaches = network_reaches(classifier.module, base)
    rescale(classifier.module, reaches, falls_with_inputs=True)
    return reaches


def grown_classifier(run: TrainingRun, base: Classifier) -> Classifier:
    """Grow a base as the recipe says; at its defaults, return it.

    Raises:
        InvalidValueError: Networks of its kind do not grow that way, or so far.
    """
    asked = asked_of(run)
    if asked is None:
        return base
    large, growth = grow_classifier(base, asked)
    _tell(run, growth)
    return large


def grown_recogniser(run: TrainingRun, base: SpeechModel) -> SpeechModel:
    """As `grown_classifier`."""
    asked = asked_of(run)
    if asked is None:
        return base
    large, growth = grow_recogniser(base, asked)
    _tell(run, growth)
    return large


def grown_encoder(run: TrainingRun, base: EncoderModule, *, is_told: bool) -> EncoderModule:
    """As `grown_classifier`; without a word where it was told before."""
    asked = asked_of(run)
    if asked is None:
        return base
    large, growth = grow_encoder(base, asked)
    if is_told:
        _tell(run, growth)
    return large


def asked_of(run: TrainingRun) -> Asked | None:
    """Return what the recipe wants made of its base; None where that is to stay as it is."""
    model = run.config.model
    if (model.width_factor, model.depth_factor) == (1, 1):
        return None
    return Asked(
        name=model.base or "",
        width_factor=model.width_factor,
        depth_factor=model.depth_factor,
        generator=run.generator("init", "grow"),
    )


def _mup_width(run: TrainingRun, model: LanguageModel) -> int | None:
    """Return how many times as wide a model is to be as what its learning rate is for.

    A base may know it of itself, and what is grown from it is wider still. None where neither the
    recipe nor the base was ever scaled by muP.
    """
    asked = run.config.model
    of_base = model.manifest.lineage.get(_WIDTH)
    if of_base is not None and (type(of_base) is not int or of_base < 1):
        raise InvalidCheckpointError(f"lineage.{_WIDTH} is {of_base!r}.", param="model")
    if of_base is None and asked.scaling == "standard":
        return None
    return int(of_base or 1) * asked.width_factor


def _grown(run: TrainingRun, base: LanguageModel) -> LanguageModel:
    asked = run.config.model
    if (asked.width_factor, asked.depth_factor) == (1, 1):
        return base
    large, growth = grow(
        base,
        width_factor=asked.width_factor,
        depth_factor=asked.depth_factor,
        generator=run.generator("init", "grow"),
    )
    _tell(run, growth)
    return large


def _tell(run: TrainingRun, growth: Growth) -> None:
    """Tell, and have the lineage say, what growing did to the base."""
    record = growth.record()
    run.notes[_GROWN] = record
    sizes = f"{growth.parameters_before:,} to {growth.parameters:,}"
    run.link.event(
        f"Grew {run.config.model.base!r} from {sizes} parameters; nothing that it gives "
        f"differs by more than {growth.largest_difference:.1e}.",
        **record,
    )
