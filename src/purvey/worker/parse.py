"""Mode `parse`: answer questions about what must not be trusted, confined. Without torch."""

import io
import logging
import warnings
from typing import Protocol, assert_never

import msgspec
from PIL import Image

from purvey.contracts.engine import ChatMessage
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
    OutOfMemory,
    ParserReady,
    RenderChat,
    TemplateChecked,
    ToParser,
    Unusable,
)
from purvey.contracts.sampling import JsonGrammar
from purvey.errors import InternalError, PurveyError
from purvey.ipc.confinement import Confinement
from purvey.parse import grammars, images, sounds, templates

logger = logging.getLogger(__name__)


class ParseLink(Protocol):
    """The part of a link that this process uses."""

    def receive(self) -> ToParser | None:
        """Wait for the next question; None when the owner is gone."""
        ...

    def send(self, message: msgspec.Struct) -> None:
        """Write one answer whole."""
        ...


def run(link: ParseLink) -> int:
    """Answer until the owner is gone, without files, sockets or children from the first question.

    Returns:
        The exit status, 0.
    """
    warnings.simplefilter("ignore")  # libraries quote what they warn of
    rehearse()
    confinement = Confinement(
        memory_bytes=max(LIMITS.decode_bytes, LIMITS.template_bytes, LIMITS.grammar_bytes),
        file_bytes=0,
        open_files=0,
    )
    link.send(ParserReady())
    while (question := link.receive()) is not None:
        _allow(confinement, question)
        link.send(answer(question))
    return 0


def answer(question: ToParser) -> FromParser:
    """Answer one question, whatever happens; only the kernel's limits end the process."""
    try:
        return _parsed(question)
    except MemoryError:
        return OutOfMemory()
    except PurveyError as error:
        return Unusable(message=error.message)
    except Exception as error:  # noqa: BLE001 (the edge of the process: libraries raise anything)
        logger.error("parse.broke", extra={"reason": type(error).__name__})  # noqa: TRY400 (it quotes content)
        return Unusable(message="it cannot be parsed.")


def _parsed(question: ToParser) -> FromParser:
    match question:
        case CheckTemplate(source=source):
            templates.compiled(source)
            return TemplateChecked()
        case RenderChat():
            return templates.render(question)
        case CheckGrammar(grammar=grammar):
            return grammars.check(grammar)
        case DecodeImage():
            return images.decode(question)
        case DecodeAudio():
            return sounds.decode(question)
        case _ as never:
            assert_never(never)


def _allow(confinement: Confinement, question: ToParser) -> None:
    if isinstance(question, (DecodeImage, DecodeAudio)):
        confinement.allow(memory_bytes=LIMITS.decode_bytes, cpu_s=LIMITS.decode_s)
    elif isinstance(question, CheckGrammar):
        confinement.allow(memory_bytes=LIMITS.grammar_bytes, cpu_s=LIMITS.grammar_s)
    else:
        confinement.allow(memory_bytes=LIMITS.template_bytes, cpu_s=LIMITS.template_s)


def rehearse() -> None:
    """Parse one of each kind: what a library imports late could not be opened any more.

    Raises:
        InternalError: A library does not do what it must.
    """
    talk = (ChatMessage(role="user", content="a"),)
    pairs: list[tuple[ToParser, type[FromParser]]] = [
        (_render("{{ messages | pprint | tojson }}", talk), ChatRendered),
        (_render("{{ raise_exception('no') }}", talk), Unusable),
        (CheckGrammar(grammar=JsonGrammar(schema='{"type":"object"}')), GrammarChecked),
        *((_picture(form), ImageDecoded) for form in images.FORMATS),
        *((_recording(form), AudioDecoded) for form in sounds.FORMATS),
    ]
    for question, expected in pairs:
        if not isinstance(answer(question), expected):
            raise InternalError(f"a library does not turn {type(question).__name__} as it must")


def _render(source: str, messages: tuple[ChatMessage, ...]) -> RenderChat:
    return RenderChat(
        source=source, bos_token="", eos_token="", messages=messages, add_generation_prompt=True
    )


def _picture(form: str) -> DecodeImage:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    written = io.BytesIO()
    Image.new("RGB", (2, 1)).save(written, form, exif=exif)
    return DecodeImage(data=written.getvalue(), height=1, width=1, channels=1, max_pixels=2)


def _recording(form: str) -> DecodeAudio:
    from soundfile import SoundFile

    written = io.BytesIO()
    with SoundFile(written, "w", samplerate=8_000, channels=1, format=form) as file:
        file.buffer_write(bytes(8_000), "int16")
    return DecodeAudio(data=written.getvalue(), start_s=0.0, max_s=0.5)
