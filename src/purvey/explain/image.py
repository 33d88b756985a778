"""Explain image classes by occlusion: patches are filled with the mean colour, coarse to fine."""

import io
from dataclasses import dataclass, replace

from PIL import Image

from purvey.contracts.clock import Clock
from purvey.contracts.engine import ImageInput, NamedInputs
from purvey.contracts.explain import ExplanationRequest, ExplanationResult
from purvey.errors import InvalidValueError, MethodUnsupportedError
from purvey.explain.assemble import Case, Finding, investigate, result_of
from purvey.explain.grid import Box, PatchGrid, Pixels
from purvey.explain.labels import LabelTarget
from purvey.explain.parts import Part
from purvey.explain.picture import heat_map_png
from purvey.explain.subject import ClassifierModel, Masks, Subject, Values


@dataclass(frozen=True, kw_only=True)
class SeenImage:
    """An image as given, and as the model sees it.

    Args:
        width: Columns of the given image; boxes are told in its pixels.
        height: Rows of the given image.
        shown: The image for the picture, RGB, at any size.
        pixels: The image (HWC) at the model's size and channels; it is perturbed there, which
            keeps every pass cheap.
    """

    width: int
    height: int
    shown: Image.Image
    pixels: Pixels

    def given_box(self, box: Box) -> Box:
        """Map a box of the model's pixels to pixels of the given image."""
        height, width, _ = self.pixels.shape
        across, down = self.width / width, self.height / height
        left, top, right, bottom = box
        return round(left * across), round(top * down), round(right * across), round(bottom * down)

    def grid(self) -> PatchGrid:
        """Return the grid of patches; none is smaller than a pixel of the given image."""
        height, width, _ = self.pixels.shape
        min_side = max(-(-width // self.width), -(-height // self.height))
        return PatchGrid(height=height, width=width, min_side=min_side)


def explain_image_class(
    request: ExplanationRequest,
    model: ClassifierModel,
    *,
    input_name: str,
    image: SeenImage,
    clock: Clock,
) -> ExplanationResult:
    """Attribute a class of an image to its patches, and draw the heat map.

    Raises:
        InvalidValueError: No image, an unknown label, or a budget too small.
        MethodUnsupportedError: A method, unit or perturbation that images do not have.
    """
    _refuse_foreign(request)
    pixels_HWC, grid = image.pixels, image.grid()
    aim = LabelTarget.chosen(request, model, _named(input_name, pixels_HWC))

    def value(keep_MA: Masks) -> Values:
        perturbed = (_named(input_name, filled) for filled in grid.filled(pixels_HWC, keep_MA))
        return aim.values(model.log_probs(list(perturbed)))

    case = Case(
        task="image-classification",
        method="occlusion",
        perturbation="mean",
        roots=grid.roots,
        target=aim.description,
        text_of=_no_text,
    )
    subject = Subject(num_atoms=grid.num_atoms, value=value)
    found = _in_given_pixels(investigate(subject, case, request, clock=clock), image)
    picture = None
    if request.wants_picture:
        picture = heat_map_png(image.shown, found.attribution, of=(image.width, image.height))
    return result_of(found, case, picture_png=picture)


def _refuse_foreign(request: ExplanationRequest) -> None:
    if request.image is None or request.output is not None:
        raise InvalidValueError(
            "this model classifies images.",
            param="input" if request.image is None else "output",
            hint="Give input.image, and target.label if another class than the first is meant.",
        )
    if request.method == "leave_one_out" or request.units not in ("auto", "patch"):
        raise MethodUnsupportedError(
            "an image has no words to leave out.",
            param="method" if request.method == "leave_one_out" else "units",
            hint="Use method 'occlusion' and units 'patch'.",
        )
    if request.perturbation == "delete":
        raise MethodUnsupportedError(
            "a patch of an image cannot be deleted.", param="perturbation", hint="Use 'mean'."
        )


def _named(input_name: str, pixels_HWC: Pixels) -> NamedInputs:
    flat = pixels_HWC[:, :, 0] if pixels_HWC.shape[-1] == 1 else pixels_HWC
    encoded = io.BytesIO()
    Image.fromarray(flat).save(encoded, "BMP")  # lossless, and needs no compression
    return {input_name: ImageInput(data=encoded.getvalue())}


def _in_given_pixels(finding: Finding, image: SeenImage) -> Finding:
    parts = tuple(_moved(part, image) for part in finding.attribution.parts)
    return replace(finding, attribution=replace(finding.attribution, parts=parts))


def _moved(part: Part, image: SeenImage) -> Part:
    assert part.box is not None, "a patch has its box"
    return replace(part, box=image.given_box(part.box))


def _no_text(part: Part) -> str | None:
    return None
