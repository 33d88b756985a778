"""Where the commands find their server."""

from typing import TYPE_CHECKING

from purvey.errors import InvalidKeyError

if TYPE_CHECKING:
    from purvey.client.purvey import Purvey


def connect() -> "Purvey":
    """Return a client for `PURVEY_BASE_URL` that shows `PURVEY_API_KEY`.

    Raises:
        CapacityError: No server answers there (looked at only when there is no key).
        InvalidKeyError: There is no key.
    """
    from purvey.client.purvey import Purvey
    from purvey.client.transport import DEFAULT_BASE_URL
    from purvey.settings import client_environment

    environment = client_environment()
    client = Purvey(environment.base_url or DEFAULT_BASE_URL, environment.api_key)
    if environment.api_key is None:
        client.server.is_ready()
        raise InvalidKeyError(
            f"the server at {client.address!r} wants an API key.",
            hint="Set PURVEY_API_KEY to the one that `purvey serve` printed at its first start.",
        )
    return client
