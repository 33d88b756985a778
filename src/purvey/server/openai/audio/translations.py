"""`/v1/audio/translations`: a recording in any language in, what it means in English out."""

from fastapi import Response

from purvey.server.openai.audio.form import TRANSLATION, read_translation_form
from purvey.server.openai.audio.hearing import Wanted, read_recording, require_content, whole
from purvey.server.openai.audio.transcriptions import EXAMPLE, Transcription
from purvey.server.policy import Caller
from purvey.server.presence import while_present
from purvey.server.routing import Routes

routes = Routes(tag="Audio")
_DOCUMENTED = TRANSLATION | {
    "responses": {"200": {"content": {"text/plain": {"example": "hello world\n"}}}}
}


@routes.add(
    "POST",
    "/v1/audio/translations",
    scope="inference",
    returns=Transcription,
    example=EXAMPLE,
    extra=_DOCUMENTED,
)
async def translate(call: Caller) -> Response:
    """Write down in English what a recording says in another language.

    As `/v1/audio/transcriptions`, of a model that translates: multilingual ones of the Whisper
    family. The language that is spoken is found by the model.
    """
    upload, data = await read_recording(call)
    form = read_translation_form(upload)
    require_content(data)
    wanted = Wanted(
        model=form.model,
        response_format=form.response_format,
        task="translate",
        language=None,
        prompt=form.prompt or "",
        granularities=("segment",),
    )
    return await while_present(call.request, whole(call, wanted, data))
