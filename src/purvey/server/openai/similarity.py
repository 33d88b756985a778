"""How likely descriptions of an image are, by a model that embeds images beside texts.

As CLIP classifies what it was never trained to tell apart (Radford et al. 2021, section 3.1.2): the
softmax over the cosines of the image and each description, times the model's scale.
"""

import struct
from collections.abc import Sequence
from operator import mul

from purvey.contracts.embedding import Embed, Picture
from purvey.contracts.engine import EngineClient
from purvey.server.metering import Tally

_BYTES_PER_FLOAT = 4


async def similarities(
    engine: EngineClient,
    image: bytes,
    texts: Sequence[str],
    *,
    params: Sequence[str],
    request_id: str,
    tally: Tally,
) -> list[float]:
    """Return the logit of each text.

    Args:
        engine: Of a model that embeds both.
        image: Encoded.
        texts: Descriptions, at least one.
        params: What a refusal calls the image, then each of the texts.
        request_id: Of the request.
        tally: What it takes is counted here.

    Raises:
        PurveyError: The image or a text is refused.
    """
    answer = await engine.embed(
        Embed(request_id=request_id, inputs=(Picture(data=image), *texts), params=tuple(params))
    )
    tally.input_tokens += answer.num_tokens
    tally.images += 1
    tally.rows += 1
    tally.compute_s += answer.compute_s
    seen, *said = (_numbers(vector) for vector in answer.vectors)
    return [engine.model.similarity_scale * _cosine(seen, vector) for vector in said]


def _cosine(first: Sequence[float], second: Sequence[float]) -> float:
    return float(sum(map(mul, first, second)))


def _numbers(vector: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(vector) // _BYTES_PER_FLOAT}f", vector)
