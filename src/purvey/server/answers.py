"""Pieces that several resources' answers share."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import Response
from typing_extensions import TypedDict

_encode = msgspec.json.Encoder().encode


class TokenUsage(TypedDict):
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class PromptTokensDetails(TypedDict):
    """Where prompt tokens came from."""

    cached_tokens: int


class CompletionTokensDetails(TypedDict):
    """What completion tokens were spent on."""

    reasoning_tokens: int


class GenerationUsage(TokenUsage):
    """Tokens of one generation."""

    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


def token_usage(prompt_tokens: int, completion_tokens: int) -> TokenUsage:
    """Count tokens in OpenAI's shape."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def generation_usage(
    prompt_tokens: int, completion_tokens: int, *, cached_tokens: int, reasoning_tokens: int = 0
) -> GenerationUsage:
    """Count tokens in OpenAI's shape; `cached_tokens` of the prompt needed no computing."""
    return {
        **token_usage(prompt_tokens, completion_tokens),
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
    }


def as_json(value: Mapping[str, Any], *, status: int = 200) -> Response:
    """Answer with a JSON object."""
    return Response(_encode(value), status_code=status, media_type="application/json")


def digest_of(value: Mapping[str, Any]) -> str:
    """Return the hex SHA-256 of a JSON object's canonical form."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
