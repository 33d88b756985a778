"""What reads the images and recordings of one request."""

from purvey.models.images import ImageReader
from purvey.models.inputs.audio import SoundReader
from purvey.parse.parser import PARSER, MediaDecoder


class MediaReader:
    """Readers that share one decoder; each bounds what its kind may cost one request.

    Args:
        decoder: What decodes.
    """

    def __init__(self, decoder: MediaDecoder = PARSER) -> None:
        self.images = ImageReader(decoder)
        self.sounds = SoundReader(decoder)
