"""Questions to a parse process and its answers: what must not be trusted, as plain values."""

import msgspec

from purvey.contracts.engine import ChatMessage
from purvey.contracts.sampling import Grammar


class CheckTemplate(msgspec.Struct, frozen=True, kw_only=True, tag="check_template"):
    """Does this chat template compile?"""

    source: str


class Prefix(msgspec.Struct, frozen=True, kw_only=True):
    """The first messages of a conversation, rendered alone."""

    num_messages: int
    add_generation_prompt: bool


class RenderChat(msgspec.Struct, frozen=True, kw_only=True, tag="render_chat"):
    """What does the template make of this conversation, and of its beginnings?

    Args:
        source: Jinja text.
        bos_token: Text of the begin token; may be empty.
        eos_token: Text of the end token; may be empty.
        messages: The conversation.
        add_generation_prompt: Whether an answer is asked for at its end.
        prefixes: Beginnings to render too.
        tools: JSON texts of the functions that may be called.
        enable_thinking: Whether the model is asked to reason; None leaves it to the template.
    """

    source: str
    bos_token: str
    eos_token: str
    messages: tuple[ChatMessage, ...]
    add_generation_prompt: bool
    prefixes: tuple[Prefix, ...] = ()
    tools: tuple[str, ...] = ()
    enable_thinking: bool | None = None


class CheckGrammar(msgspec.Struct, frozen=True, kw_only=True, tag="check_grammar"):
    """Can this grammar be enforced?"""

    grammar: Grammar


class DecodeImage(msgspec.Struct, frozen=True, kw_only=True, tag="decode_image"):
    """What are the pixels of this image, at this size?

    Args:
        data: The encoded bytes.
        height: Rows wanted.
        width: Columns wanted.
        channels: 1 for grey, 3 for RGB.
        max_pixels: Width times height that its header may announce.
        is_cropped: Whether its proportions are kept, and what is beside the middle is cut off.
        is_bicubic: Whether interpolation is cubic instead of linear.
    """

    data: bytes
    height: int
    width: int
    channels: int
    max_pixels: int
    is_cropped: bool = False
    is_bicubic: bool = False


class DecodeAudio(msgspec.Struct, frozen=True, kw_only=True, tag="decode_audio"):
    """What are the samples of this recording, at its own rate?

    Args:
        data: The encoded bytes.
        start_s: Where to begin; nothing is left where the recording is shorter.
        max_s: Seconds wanted from there.
    """

    data: bytes
    start_s: float
    max_s: float


class ParserReady(msgspec.Struct, frozen=True, kw_only=True, tag="parser_ready"):
    """The process has confined itself and takes questions."""


class TemplateChecked(msgspec.Struct, frozen=True, kw_only=True, tag="template_checked"):
    """The template compiles."""


class GrammarChecked(msgspec.Struct, frozen=True, kw_only=True, tag="grammar_checked"):
    """The grammar compiles."""


class ChatRendered(msgspec.Struct, frozen=True, kw_only=True, tag="chat_rendered"):
    """The rendered conversation.

    Args:
        text: The whole.
        prefix_chars: For each prefix its length in characters, where the whole begins with it;
            else None.
    """

    text: str
    prefix_chars: tuple[int | None, ...] = ()


class ImageDecoded(msgspec.Struct, frozen=True, kw_only=True, tag="image_decoded"):
    """The pixels, upright and without transparency.

    Args:
        given_width: Columns of the image as it was given, upright.
        given_height: Rows of it.
        pixels: One byte each, by rows, then columns, then channels, at the size asked for.
    """

    given_width: int
    given_height: int
    pixels: bytes


class AudioDecoded(msgspec.Struct, frozen=True, kw_only=True, tag="audio_decoded"):
    """The samples of a recording, or of a part of it.

    Args:
        sample_rate_hz: Its own rate.
        channels: Its channels.
        samples: Float32 in native byte order, one after the other channel, moment by moment.
    """

    sample_rate_hz: int
    channels: int
    samples: bytes


class Unusable(msgspec.Struct, frozen=True, kw_only=True, tag="unusable"):
    """It cannot be parsed; a sentence says why."""

    message: str


class OutOfMemory(msgspec.Struct, frozen=True, kw_only=True, tag="out_of_memory"):
    """It needs more memory than the process may have."""


ToParser = CheckTemplate | RenderChat | CheckGrammar | DecodeImage | DecodeAudio
FromParser = (
    ParserReady
    | TemplateChecked
    | ChatRendered
    | GrammarChecked
    | ImageDecoded
    | AudioDecoded
    | Unusable
    | OutOfMemory
)
