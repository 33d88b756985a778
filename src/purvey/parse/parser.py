"""The parser that every package asks: answers are checked, failures become the asker's errors."""

from typing import Protocol

from purvey.contracts.limits import LIMITS
from purvey.contracts.parse import (
    AudioDecoded,
    ChatRendered,
    CheckGrammar,
    CheckTemplate,
    DecodeAudio,
    DecodeImage,
    FromParser,
    GrammarChecked,
    ImageDecoded,
    RenderChat,
    TemplateChecked,
    ToParser,
    Unusable,
)
from purvey.contracts.sampling import Grammar, param_of
from purvey.errors import (
    InternalError,
    InvalidCheckpointError,
    InvalidSchemaError,
    InvalidValueError,
)
from purvey.parse import images, sounds
from purvey.parse.pool import ParseFailedError, ParsePool

_MESSAGE_CHARS = 500


class ImageDecoder(Protocol):
    """Turns encoded images into pixels."""

    def decode(self, question: DecodeImage, *, param: str, timeout_s: float) -> ImageDecoded:
        """Return an image's pixels at the size asked for.

        Raises:
            InvalidValueError: The image is refused; names `param`.
        """
        ...


class AudioDecoder(Protocol):
    """Turns encoded recordings into samples."""

    def decode_audio(self, question: DecodeAudio, *, param: str, timeout_s: float) -> AudioDecoded:
        """Return the samples of a part of a recording.

        Raises:
            InvalidValueError: The recording is refused; names `param`.
        """
        ...


class MediaDecoder(ImageDecoder, AudioDecoder, Protocol):
    """Turns encoded images and recordings into numbers."""


class Parser:
    """Questions to parse processes. Safe in any thread.

    Args:
        pool: The processes.
    """

    def __init__(self, pool: ParsePool) -> None:
        self._pool = pool

    def warm(self) -> None:
        """Have a process started, so that the first question need not wait for it."""
        self._pool.warm()

    def check_template(self, source: str) -> None:
        """Compile a chat template.

        Raises:
            InvalidCheckpointError: It is too long, does not compile, or takes too much to.
        """
        if len(source) > LIMITS.template_chars:
            message = f"the chat template has more than {LIMITS.template_chars} characters."
            raise _bad_template(message)
        answer = self._about_template(CheckTemplate(source=source))
        if isinstance(answer, Unusable):
            raise _bad_template(answer.message[:_MESSAGE_CHARS])
        if not isinstance(answer, TemplateChecked):
            raise _other(answer)

    def render(self, question: RenderChat) -> ChatRendered:
        """Render a conversation.

        Raises:
            InvalidValueError: The template refuses the conversation, or its output is too long.
            InvalidCheckpointError: The template takes too much time or memory.
        """
        answer = self._about_template(question)
        if isinstance(answer, Unusable):
            raise InvalidValueError(answer.message[:_MESSAGE_CHARS], param="messages")
        if (
            not isinstance(answer, ChatRendered)
            or len(answer.text) > LIMITS.rendered_chars
            or len(answer.prefix_chars) != len(question.prefixes)
        ):
            raise _other(answer)
        return answer

    def check_grammar(self, grammar: Grammar) -> None:
        """Compile a grammar.

        Raises:
            InvalidSchemaError: It cannot be enforced, or takes too much time or memory to.
        """
        param = param_of(grammar)
        try:
            answer = self._pool.ask(CheckGrammar(grammar=grammar), timeout_s=LIMITS.grammar_s)
        except ParseFailedError as error:
            message = f"it cannot be compiled: it {error}."
            raise InvalidSchemaError(message, param=param, hint="Make it simpler.") from None
        if isinstance(answer, Unusable):
            raise InvalidSchemaError(answer.message[:_MESSAGE_CHARS], param=param)
        if not isinstance(answer, GrammarChecked):
            raise _other(answer)

    def decode(self, question: DecodeImage, *, param: str, timeout_s: float) -> ImageDecoded:
        """Return an image's pixels at the size asked for.

        Raises:
            InvalidValueError: The image is refused, or takes too much time or memory.
        """
        failed = "the image {}: give a smaller or simpler one."
        answer = self._of_media(question, failed=failed, param=param, timeout_s=timeout_s)
        size = question.height * question.width * question.channels
        if not isinstance(answer, ImageDecoded) or len(answer.pixels) != size:
            raise _other(answer)
        return answer

    def decode_audio(self, question: DecodeAudio, *, param: str, timeout_s: float) -> AudioDecoded:
        """Return the samples of a part of a recording.

        Raises:
            InvalidValueError: The recording is refused, or takes too much time or memory.
        """
        failed = "the recording {}: give a shorter or simpler one."
        answer = self._of_media(question, failed=failed, param=param, timeout_s=timeout_s)
        if not isinstance(answer, AudioDecoded) or not _is_whole(answer):
            raise _other(answer)
        return answer

    def _of_media(
        self, question: DecodeImage | DecodeAudio, *, failed: str, param: str, timeout_s: float
    ) -> FromParser:
        try:
            answer = self._pool.ask(question, timeout_s=timeout_s)
        except ParseFailedError as error:
            raise InvalidValueError(failed.format(error), param=param) from None
        if isinstance(answer, Unusable):
            raise InvalidValueError(answer.message[:_MESSAGE_CHARS], param=param)
        return answer

    def _about_template(self, question: ToParser) -> FromParser:
        try:
            return self._pool.ask(question, timeout_s=LIMITS.template_s)
        except ParseFailedError as error:
            raise _bad_template(f"the model's chat template {error}.") from None


class DecoderHere:
    """Decodes in this process, what was made or decoded under limits before.

    An explanation's perturbed images are encoded by the engine itself; a training job reads
    images and recordings that the preparation of its dataset has decoded.
    """

    def decode(
        self,
        question: DecodeImage,
        *,
        param: str,
        timeout_s: float,  # nobody stands by to end it
    ) -> ImageDecoded:
        """Return an image's pixels at the size asked for."""
        return images.decode(question, param=param)

    def decode_audio(
        self,
        question: DecodeAudio,
        *,
        param: str,
        timeout_s: float,  # nobody stands by to end it
    ) -> AudioDecoded:
        """Return the samples of a part of a recording."""
        return sounds.decode(question, param=param)


PARSER = Parser(ParsePool())
"""This process's own; its processes start when the first question comes."""


def _is_whole(answer: AudioDecoded) -> bool:
    frame_bytes = answer.channels * sounds.SAMPLE_BYTES
    return (
        1 <= answer.channels <= LIMITS.audio_channels
        and sounds.LEAST_RATE_HZ <= answer.sample_rate_hz <= LIMITS.audio_rate_hz
        and len(answer.samples) % frame_bytes == 0
        and len(answer.samples) <= LIMITS.audio_samples * sounds.SAMPLE_BYTES
    )


def _bad_template(message: str) -> InvalidCheckpointError:
    return InvalidCheckpointError(message, param="model", hint="Give the model another one.")


def _other(answer: FromParser) -> InternalError:
    return InternalError(f"a parse process answered with an unfit {type(answer).__name__}.")
