"""The live routes that take a body, and a path to each that names nothing."""

import re
from typing import get_type_hints

from purvey.contracts.limits import LIMITS
from purvey.server.application import RESOURCES
from purvey.server.routing import PolicyRoute

ROUTES: list[PolicyRoute] = [route for resource in RESOURCES for route in resource]
GUARDED = [route for route in ROUTES if not route.policy.is_public]


def path_of(route: PolicyRoute, filled: str = "some-id") -> str:
    """Return a path that the route matches."""
    return re.sub(r"\{[^}]+\}", filled, route.path)


def method_of(route: PolicyRoute) -> str:
    """Return the route's one method."""
    [method] = route.methods or {"?"}
    return method


JSON_ROUTES = [
    (method_of(route), path_of(route))
    for route in ROUTES
    if "body" in get_type_hints(route.endpoint)
]
TEMPLATES = {path_of(route): re.sub(r":\w+\}", "}", route.path) for route in ROUTES}
"""What the document calls each path."""
UPLOAD_ROUTES = [
    ("POST", "/v1/files", LIMITS.upload_bytes),
    ("POST", "/v1/audio/transcriptions", LIMITS.audio_bytes),
    ("POST", "/v1/audio/translations", LIMITS.audio_bytes),
]
"""With the bytes that their file may have."""
