"""What is done to inputs before a network sees them: always (preprocess), or in training (augment).

A value left at null is taken from the dataset: the sizes and lengths that are common there.
"""

from typing import Annotated

from pydantic import Field, field_validator

from purvey.contracts.recipe_parts.part import Fraction, Part


class ImageSize(Part):
    """Size that images are resized to."""

    height: Annotated[int, Field(ge=4, le=1_024)] | None = None
    """Rows in pixels; null takes the most common one of the dataset, 224 at most."""
    width: Annotated[int, Field(ge=4, le=1_024)] | None = None
    """Columns in pixels; null as for `height`."""
    channels: Annotated[int, Field(ge=1, le=3)] = 3
    """3 for colour, 1 for grey."""

    @field_validator("channels")
    @classmethod
    def _grey_or_colour(cls, channels: int) -> int:
        if channels == 2:
            msg = "images have 3 channels (colour) or 1 (grey)"
            raise ValueError(msg)
        return channels


class AudioShape(Part):
    """How recordings are heard."""

    sample_rate_hz: Annotated[int, Field(ge=1_000, le=48_000)] = 16_000
    """Rate that recordings are resampled to."""
    max_s: Annotated[float, Field(gt=0.05, le=600, allow_inf_nan=False)] | None = None
    """Seconds that are heard; null takes the longest recording, 30 s at most."""
    num_mels: Annotated[int, Field(ge=8, le=256)] = 64
    """Mel bands, from windows of 25 ms every 10 ms."""


class TextShape(Part):
    """How much of a text is read by networks that read bytes."""

    max_bytes: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """UTF-8 bytes that are read; null takes the longest text, 1,024 at most."""


class PreprocessConfig(Part):
    """What every input goes through, in training and when served."""

    image: ImageSize = ImageSize()
    audio: AudioShape = AudioShape()
    text: TextShape = TextShape()


class ImageAugment(Part):
    """Changes of training images that leave their label as it is; drawn anew at every visit."""

    crop_pixels: Annotated[int, Field(ge=0, le=256)] = 0
    """Images are padded by so much and cut at a random place: a shift in both directions."""
    flip: bool = False
    """Mirror half of the images, left to right."""
    rotate_degrees: Annotated[float, Field(ge=0, le=180, allow_inf_nan=False)] = 0.0
    """Largest rotation, drawn evenly from both directions."""
    noise: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    """Standard deviation of noise added to each pixel, pixels being 0 to 1."""


class AudioAugment(Part):
    """SpecAugment (Park et al. 2019): bands and moments of the spectrogram are blanked."""

    frequency_masks: Annotated[int, Field(ge=0, le=16)] = 0
    """Masks over mel bands; models that hear samples have none."""
    frequency_mask_bands: Annotated[int, Field(ge=1, le=128)] = 8
    """Widest of them, in bands."""
    time_masks: Annotated[int, Field(ge=0, le=16)] = 0
    """Masks over time."""
    time_mask_fraction: Fraction = 0.1
    """Widest of them, as a share of the recording."""
    shift_fraction: Fraction = 0.0
    """Largest shift in time, as a share of the recording, in both directions."""


class AugmentConfig(Part):
    """Random changes of training inputs."""

    image: ImageAugment = ImageAugment()
    audio: AudioAugment = AudioAugment()
