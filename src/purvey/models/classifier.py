"""One-pass models: inputs in, one logit per label out; one score for a regression.

Hashed n-grams, an encoder, a pretrained network, one of models/networks, or a user's module.

Shape letters, this file only:
    B = inputs of a batch   L = labels, or 1 for a score
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from purvey.contracts.engine import NamedInputs, PlainInput, TextInput
from purvey.contracts.hugging_face import PRETRAINED
from purvey.contracts.model import InputSpec, ModelManifest, NumberSpec, Task, TextSpec
from purvey.contracts.sizes import check_parameters
from purvey.errors import InvalidValueError
from purvey.models import text_ngrams
from purvey.models.custom import UserModule, load_from_folder, load_from_roots
from purvey.models.encoder import texts as encoder_texts
from purvey.models.encoder.building import TokenizerFiles
from purvey.models.encoder.classifying import load_text_classifier
from purvey.models.encoder.module import EncoderModule
from purvey.models.encoder.saving import save_encoder
from purvey.models.encoder.texts import TextReader
from purvey.models.folder.config_fields import Fields
from purvey.models.folder.manifest import read_manifest, write_manifest
from purvey.models.folder.network_file import load_network_weights
from purvey.models.folder.safetensors_file import why_unstorable, write_tensors
from purvey.models.inputs.media import MediaReader
from purvey.models.inputs.tensors import check_names, tensor_of
from purvey.models.networks import catalogue
from purvey.models.networks.building import build_network
from purvey.models.pretrained.folders import load_pretrained, save_pretrained
from purvey.models.pretrained.modules import Pretrained
from purvey.models.weights import WEIGHTS_NAME, refuse_unsafe_files
from purvey.parse.parser import PARSER, MediaDecoder

Prepared = tuple[Tensor, ...]
"""One input as tensors, before it is joined with others into a batch."""
TEXT_NGRAMS = "text-ngrams"
ENCODER = "encoder"


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A network with labels, and the way from raw inputs to its tensors. Thread-safe to use.

    Args:
        manifest: Labels, inputs, hyperparameters, temperature.
        module: The network; float32, on the CPU.
        source: For a user's module, the file's bytes.
        reader: For an encoder, what turns texts into its tokens.
        tokenizer: For an encoder that is to be saved, what its folder says about tokens.
    """

    manifest: ModelManifest
    module: nn.Module
    source: bytes | None = None
    reader: TextReader | None = None
    tokenizer: TokenizerFiles | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.manifest.labels

    @property
    def num_outputs(self) -> int:
        """Logits of one input; a regression has one score."""
        return _num_outputs(self.manifest)

    @property
    def num_parameters(self) -> int:
        """Weights."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def prepare(self, inputs: NamedInputs, *, decoder: MediaDecoder = PARSER) -> Prepared:
        """Turn one input into tensors; costly work (decoding, hashing) happens here.

        Args:
            inputs: Values by the names that the manifest declares.
            decoder: What decodes images and recordings.

        Raises:
            InvalidValueError: An input is missing, unknown, of another kind, or broken.
        """
        return self._prepared(inputs, MediaReader(decoder))

    def prepare_all(self, rows: Sequence[NamedInputs]) -> list[Prepared]:
        """As `prepare`, for the inputs of one request, whose media share what it may cost."""
        media = MediaReader()
        return [self._prepared(inputs, media) for inputs in rows]

    def collate(self, items: Sequence[Prepared]) -> tuple[Tensor, ...]:
        """Join prepared inputs into the tensors that `logits` takes."""
        if self.manifest.family == TEXT_NGRAMS:
            return text_ngrams.collate([(features, weights) for features, weights in items])
        if self.reader is not None:
            return encoder_texts.collate([(tokens_T, types_T) for tokens_T, types_T in items])
        return tuple(torch.stack(column) for column in zip(*items, strict=True))

    def logits(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Return `logits_BL` in float32, uncalibrated; differentiable.

        Raises:
            InvalidValueError: A user's module returned another shape.
        """
        logits_BL: Tensor = self.module(*batch)
        if logits_BL.ndim != 2 or logits_BL.shape[1] != self.num_outputs:
            message = f"the module returned {list(logits_BL.shape)}, not [B, {self.num_outputs}]."
            raise InvalidValueError(message, param="model.architecture")
        return logits_BL.float()

    def answers(self, logits_BL: Tensor) -> Tensor:
        """Return in float64 what is told: probabilities `p_BL`, or a regression's scores `y_B1`."""
        if self.manifest.task == "regression":
            scale = self.manifest.score or NumberSpec()
            return logits_BL.double() * scale.std + scale.mean
        return (logits_BL.double() / self.manifest.temperature).softmax(dim=-1)

    @torch.no_grad()
    def log_probabilities(self, items: Sequence[Prepared]) -> Tensor:
        """Return calibrated natural log-probabilities `logp_BL` of prepared inputs, in float32."""
        logits_BL = self.logits(self.collate(items))
        return (logits_BL / self.manifest.temperature).log_softmax(dim=-1)

    def with_manifest(self, **changes: Any) -> "Classifier":  # noqa: ANN401 (fields of the manifest)
        """Return the same network with other words about it (temperature, report, lineage)."""
        manifest = msgspec.structs.replace(self.manifest, **changes)
        return replace(self, manifest=manifest)

    def _prepared(self, inputs: NamedInputs, media: MediaReader) -> Prepared:
        declared = self.manifest.inputs
        check_names(inputs, declared)
        if self.manifest.family in (TEXT_NGRAMS, ENCODER):
            ((name, spec),) = declared.items()
            return self._read(inputs[name], spec, name)
        return tuple(tensor_of(inputs[name], spec, name, media) for name, spec in declared.items())

    def _read(self, value: PlainInput, spec: InputSpec, name: str) -> Prepared:
        if not isinstance(value, TextInput) or not isinstance(spec, TextSpec):
            raise InvalidValueError(f"the input {name!r} must be text.", param=name)
        if self.reader is not None:
            return self.reader.tensors(value.text, max_bytes=spec.max_bytes, param=name)
        assert isinstance(self.module, text_ngrams.TextNgrams), "family and network disagree"
        buckets = self.module.table.shape[0]
        return text_ngrams.featurise(value.text, buckets=buckets, max_bytes=spec.max_bytes)


def build_classifier(
    *,
    task: Task,
    labels: Sequence[str],
    architecture: str | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    inputs: Mapping[str, InputSpec] | None = None,
    module_roots: Sequence[str] = (),
) -> Classifier:
    """Build a fresh classifier; its weights come from torch's default generator.

    Args:
        task: What it is for.
        labels: Class names in the order of the logits; at least two, none for a regression.
        architecture: `text-ngrams`, a name of models/networks, or `file.py:Class` under a module
            root; None takes the task's usual one.
        hyperparameters: The architecture's keyword arguments.
        inputs: What a network of models/networks takes; the other kinds declare it themselves.
        module_roots: Folders of the operator's modules.

    Raises:
        InvalidValueError: Names the recipe field at fault.
    """
    values = dict(hyperparameters or {})
    if len(labels) < 2 and task != "regression":
        raise InvalidValueError("a classifier needs at least two labels.", param="dataset")
    if architecture is None:
        architecture = catalogue.DEFAULTS.get(task, TEXT_NGRAMS)
    if architecture == TEXT_NGRAMS:
        return _build_text_ngrams(task, labels, values)
    if ":" in architecture:
        user = load_from_roots(architecture, module_roots, task=task)
        return _from_user_module(user, task, labels, values)
    manifest = ModelManifest(
        family="network",
        task=task,
        labels=tuple(labels),
        inputs=dict(inputs or {}),
        hyperparameters={**catalogue.find(architecture, task=task).chosen, **values},
        architecture=architecture,
    )
    return Classifier(manifest=manifest, module=_network(manifest))


def save_classifier(classifier: Classifier, folder: Path) -> None:
    """Write `purvey.json`, `model.safetensors` and, for a user's module, its file.

    An encoder's folder is also one of `transformers`.
    """
    if isinstance(classifier.module, Pretrained):
        save_pretrained(folder, classifier.module, classifier.manifest)
        return
    if isinstance(classifier.module, EncoderModule):
        assert classifier.tokenizer is not None, "a trained encoder keeps its tokenizer"
        save_encoder(folder, classifier.module, classifier.tokenizer, classifier.manifest)
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(classifier.module.state_dict(), folder / WEIGHTS_NAME)
    if classifier.source is not None:
        assert classifier.manifest.module is not None, "a module's file has a name"
        file_name = Path(classifier.manifest.module.partition(":")[0]).name
        (folder / file_name).write_bytes(classifier.source)
    write_manifest(folder, classifier.manifest)


def load_classifier(folder: Path) -> Classifier:
    """Load a saved classifier in evaluation mode, running only the folder's own module.

    Raises:
        InvalidCheckpointError: A file is missing, unsafe, or does not fit the network.
        IntegrityError: The module's file was changed.
    """
    refuse_unsafe_files(folder)
    manifest = read_manifest(folder)
    if manifest.family == ENCODER:
        opened = load_text_classifier(folder, manifest)
        return Classifier(manifest=manifest, module=opened.module, reader=opened.reader)
    if manifest.family in PRETRAINED:
        return Classifier(manifest=manifest, module=load_pretrained(folder, manifest))
    source = None
    if manifest.family == TEXT_NGRAMS:
        network: nn.Module = _text_ngrams(len(manifest.labels), manifest.hyperparameters)
    elif manifest.family == "network":
        network = _network(manifest)
    else:
        user = load_from_folder(folder, manifest)
        source = user.source
        network = user.build(
            num_classes=_num_outputs(manifest), hyperparameters=manifest.hyperparameters
        )
    load_network_weights(network, folder / WEIGHTS_NAME)
    return Classifier(manifest=manifest, module=network.eval(), source=source)


def _num_outputs(manifest: ModelManifest) -> int:
    return 1 if manifest.task == "regression" else len(manifest.labels)


def _network(manifest: ModelManifest) -> nn.Module:
    return build_network(
        manifest.architecture or "",
        task=manifest.task,
        inputs=manifest.inputs,
        num_outputs=_num_outputs(manifest),
        hyperparameters=manifest.hyperparameters,
    )


def _build_text_ngrams(
    task: Task, labels: Sequence[str], hyperparameters: dict[str, Any]
) -> Classifier:
    if task != "text-classification":
        message = f"the architecture {TEXT_NGRAMS!r} is for text-classification, not {task!r}."
        raise InvalidValueError(message, param="model.architecture")
    manifest = ModelManifest(
        family="text-ngrams",
        task=task,
        labels=tuple(labels),
        inputs={"input": TextSpec()},
        hyperparameters=hyperparameters,
    )
    return Classifier(manifest=manifest, module=_text_ngrams(len(labels), hyperparameters))


def _text_ngrams(num_classes: int, hyperparameters: Mapping[str, Any]) -> text_ngrams.TextNgrams:
    fields = Fields(hyperparameters, error=InvalidValueError, at="model.hyperparameters.")
    fields.refuse_unknown(("buckets", "width", "dropout"))
    buckets = fields.count("buckets", default=text_ngrams.DEFAULT_BUCKETS)
    width = fields.count("width", default=text_ngrams.DEFAULT_WIDTH)
    if buckets * width > 2**28:
        raise fields.refusal("buckets", "times width must be at most 2^28")
    check_parameters(
        buckets * width + num_classes * (width + 1),
        f"a table of {buckets} x {width}, and {num_classes} labels x ({width} + 1)",
    )
    dropout = fields.fraction("dropout", default=0.0)
    return text_ngrams.TextNgrams(
        num_classes=num_classes, buckets=buckets, width=width, dropout=dropout
    )


def _from_user_module(
    user: UserModule, task: Task, labels: Sequence[str], hyperparameters: dict[str, Any]
) -> Classifier:
    manifest = ModelManifest(
        family="module",
        task=task,
        labels=tuple(labels),
        inputs=user.inputs,
        hyperparameters=hyperparameters,
        module=user.reference,
        module_sha256=user.sha256,
    )
    network = user.build(num_classes=_num_outputs(manifest), hyperparameters=hyperparameters)
    _check_storable(network, user.reference)
    return Classifier(manifest=manifest, module=network, source=user.source)


def _check_storable(network: nn.Module, reference: str) -> None:
    """Refuse now what would fail once the network is trained and saved, or loaded again."""
    for name, value in network.state_dict().items():
        complaint = why_unstorable(value)
        if complaint is not None:
            raise InvalidValueError(
                f"{reference}: {name!r} {complaint}, so the model could not be saved.",
                param="model.architecture",
                hint="Store real numbers, or register the buffer with persistent=False.",
            )
