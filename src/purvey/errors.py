"""Errors of the package: one tree, each with its code, HTTP status, exit status and hint.

PurveyError
  UserError                     the caller can fix it               4xx   exit 2
    InvalidValueError           a field has a value we refuse       400
    UnsupportedValueError       valid elsewhere, not here (yet)     400
    InvalidJSONError            the body is not the JSON we accept  400
    InvalidFileError            an uploaded file is not usable      400
    InvalidCheckpointError      a model folder is not usable        400
    InvalidSchemaError          a schema or grammar is not usable   400
    UnsafeArchiveError          an archive tries to escape          400
    ContextLengthError          prompt and output exceed the model  400
    UrlNotAllowedError          an address we do not fetch          400
    SettingError                configuration of the server         400
    InvalidKeyError             who are you                         401   exit 77
    PermissionDeniedError       you may not                         403   exit 77
    NotFoundError               no such thing, or not yours         404
      ModelNotFoundError        no such model, or not yours         404
      NotRoutedError            no such path                        404
    MethodNotAllowedError       the path has other methods          405
    ReadTimeoutError            the body came too slowly            408
    ConflictError               the state does not allow it         409
      InUseError                something still refers to it        409
      StaleFencingTokenError    another worker holds the lease      409
      IntegrityError            stored bytes changed                409
      IdempotencyKeyInUseError  its first request is not answered   409
    RequestTooLargeError        a byte budget is exceeded           413
    UnsupportedMediaTypeError   content type or encoding            415
    MethodUnsupportedError      this model cannot do that           422
    IdempotencyKeyReusedError   the key came with another payload   422
  CapacityError                 right request, wrong moment         503   exit 75
    RateLimitedError            this tenant asks too much           429
    KVCacheExhaustedError       no free KV-cache blocks             503
    AdapterNotLoadedError       its engine has dropped it           503
    ShuttingDownError           the server drains                   503
    StorageUnavailableError     the disk or database refused        503
    UpstreamUnavailableError    another server cannot be asked now  503
    DeadlineExceededError       the time allowed has passed         504
    InsufficientStorageError    the disk is full                    507
  NotImplementedHereError       OpenAI has it, we do not yet        501   exit 69
  UpstreamNotAllowedError       an outside address failed           502   exit 69
  UpstreamFailedError           the server that computes failed     502   exit 69
    UpstreamMisconfiguredError  only the operator can mend it       502
  InternalError                 our bug                             500   exit 70
    JobFailedError              a run ended in an error             500   exit 1
    WorkerCrashedError          a data-plane process died           500
    DivergedError               loss or gradient is not finite      500
"""

from typing import ClassVar


class PurveyError(Exception):
    """Root of every error this package raises on purpose.

    Args:
        message: What happened, quoting values with `!r`; never a prompt, a key or a document.
        param: The request field at fault, dotted (`data.splits.train`), where there is one.
        hint: What the reader can change; the class's hint unless given.
    """

    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"
    status: ClassVar[int] = 500
    exit_status: ClassVar[int] = 70
    default_hint: ClassVar[str] = ""
    retryable: ClassVar[bool] = False
    """What `x-should-retry` says: whether the same request may succeed later."""
    retry_after_s: float | None = None
    """Seconds after which it may, where they are known."""

    def __init__(self, message: str, *, param: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.hint = self.default_hint if hint is None else hint

    @property
    def text(self) -> str:
        """Message and hint as one line, the way API and terminal show them."""
        return f"{self.message} {self.hint}".strip()


class UserError(PurveyError):
    """The caller can fix it."""

    code, type, status, exit_status = "invalid_value", "invalid_request_error", 400, 2


class InvalidValueError(UserError):
    """A field has a value that is refused."""


class UnsupportedValueError(UserError):
    """A value that is valid elsewhere but not supported here."""

    code = "unsupported_value"


class InvalidJSONError(UserError):
    """The request body is not the JSON that is accepted."""

    code = "invalid_json"


class InvalidFileError(UserError):
    """An uploaded file cannot be used for its purpose."""

    code = "invalid_file"


class InvalidCheckpointError(UserError):
    """A model folder or checkpoint cannot be used."""

    code = "invalid_checkpoint"
    default_hint = "Weights are accepted as safetensors with a plain config.json only."


class InvalidSchemaError(UserError):
    """What an output must look like cannot be enforced: a JSON schema, a regular expression."""

    code = "invalid_schema"


class UnsafeArchiveError(UserError):
    """An archive holds entries that are not plain files inside it, or too many bytes."""

    code = "unsafe_archive"


class ContextLengthError(UserError):
    """Prompt and requested output exceed the model's context."""

    code = "context_length_exceeded"


class UrlNotAllowedError(UserError):
    """A URL, its host, or an address of that host is not one that this server fetches from."""

    code = "url_not_allowed"


class SettingError(UserError):
    """The server's configuration is wrong."""

    code, exit_status = "invalid_setting", 78


class InvalidKeyError(UserError):
    """Missing, malformed, unknown or revoked API key: one answer for all."""

    code, status, exit_status = "invalid_api_key", 401, 77


class PermissionDeniedError(UserError):
    """The key is valid but lacks the scope."""

    code, type, status, exit_status = "insufficient_permissions", "permission_error", 403, 77


class NotFoundError(UserError):
    """No such object, or it belongs to another project."""

    code, status = "not_found", 404


class ModelNotFoundError(NotFoundError):
    """No such model, or it belongs to another project."""

    code = "model_not_found"


class NotRoutedError(NotFoundError):
    """No such path on this server."""


class MethodNotAllowedError(UserError):
    """The path exists, with other methods."""

    code, status = "method_not_allowed", 405


class ReadTimeoutError(UserError):
    """The request came too slowly."""

    code, type, status, retryable = "request_read_timeout", "timeout_error", 408, True


class ConflictError(UserError):
    """The state of the object does not allow the operation."""

    code, type, status = "state_conflict", "conflict_error", 409


class InUseError(ConflictError):
    """Something that exists still refers to the object."""

    code = "in_use"


class StaleFencingTokenError(ConflictError):
    """The writer lost its lease: another worker took over."""

    code = "stale_fencing_token"


class IntegrityError(ConflictError):
    """Stored bytes are not the bytes that were written."""

    code = "integrity_error"


class IdempotencyKeyInUseError(ConflictError):
    """The first request with this `Idempotency-Key` is still being answered."""

    code, retryable = "idempotency_key_in_use", True
    default_hint = "Send it again in a moment: the answer will be the first request's."


class RequestTooLargeError(UserError):
    """A byte budget of the limits table is exceeded."""

    code, status = "request_too_large", 413


class UnsupportedMediaTypeError(UserError):
    """The content type or content encoding is not accepted."""

    code, status = "unsupported_media_type", 415


class MethodUnsupportedError(UserError):
    """This model cannot do what is asked, though others can."""

    code, status = "method_unsupported", 422


class IdempotencyKeyReusedError(UserError):
    """This `Idempotency-Key` came before with another payload."""

    code, type, status = "idempotency_key_reused", "idempotency_error", 422
    default_hint = "Send a fresh key with every new request, and the same one to repeat it."


class CapacityError(PurveyError):
    """The request is valid but cannot be served now; retrying later may succeed."""

    code, type, status, exit_status = "server_is_overloaded", "service_unavailable_error", 503, 75
    retryable = True


class RateLimitedError(CapacityError):
    """This project or key asks for more than its limit."""

    code, type, status = "rate_limit_exceeded", "rate_limit_error", 429


class KVCacheExhaustedError(CapacityError):
    """No free KV-cache blocks."""

    code = "kv_cache_exhausted"
    default_hint = "Lower max_batch_tokens, or give the engine more kv_cache_bytes."

    def __init__(self, *, needed: int, free: int) -> None:
        super().__init__(f"needed {needed} KV blocks, {free} free")
        self.needed, self.free = needed, free


class AdapterNotLoadedError(CapacityError):
    """The engine does not hold the adapter that a request names; loading it again helps."""

    code = "adapter_not_loaded"
    default_hint = "The server loads it again for the next request; send this one again."


class ShuttingDownError(CapacityError):
    """The server drains and takes no new work."""

    code = "shutting_down"


class StorageUnavailableError(CapacityError):
    """The disk or the database refused a write."""

    code = "storage_unavailable"


class UpstreamUnavailableError(CapacityError):
    """The server that computes the model has failed too often, or is busy."""

    code = "upstream_unavailable"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        hint: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, param=param, hint=hint)
        self.retry_after_s = retry_after_s


class DeadlineExceededError(CapacityError):
    """The time allowed for the request has passed."""

    code, type, status = "deadline_exceeded", "timeout_error", 504


class InsufficientStorageError(CapacityError):
    """The disk is full."""

    code, type, status, retryable = "insufficient_storage", "server_error", 507, False


class NotImplementedHereError(PurveyError):
    """OpenAI has the operation and this server does not yet."""

    code, type, status, exit_status = "not_implemented", "not_implemented_error", 501, 69


class UpstreamNotAllowedError(PurveyError):
    """An outside address failed, or led to what is not allowed."""

    code, status, exit_status, retryable = "upstream_not_allowed", 502, 69, True


class UpstreamFailedError(PurveyError):
    """The server that computes the model cannot be reached, failed, or gave no proper answer."""

    code, status, exit_status, retryable = "upstream_failed", 502, 69, True


class UpstreamMisconfiguredError(UpstreamFailedError):
    """The server that computes the model refuses us, or does not know what it is asked for."""

    code, retryable = "upstream_misconfigured", False
    default_hint = "The operator of this server can mend it."


class InternalError(PurveyError):
    """A bug of ours."""

    retryable = True


class JobFailedError(InternalError):
    """A run that somebody waited for ended in an error."""

    code, exit_status, retryable = "job_failed", 1, False


class WorkerCrashedError(InternalError):
    """A data-plane process died."""

    code, type, status = "worker_crashed", "service_unavailable_error", 503
    default_hint = "The engine restarts by itself; try again in a moment."


class DivergedError(InternalError):
    """The loss or a gradient is not finite."""

    code, retryable = "diverged", False
    default_hint = "Lower the learning rate, or set train.clip_norm."


def error_classes() -> dict[str, type[PurveyError]]:
    """Map each code to the first class of the tree that carries it."""
    found: dict[str, type[PurveyError]] = {}
    pending: list[type[PurveyError]] = [PurveyError]
    while pending:
        cls = pending.pop(0)
        found.setdefault(cls.code, cls)
        pending.extend(cls.__subclasses__())
    return found


def from_code(code: str, message: str, *, param: str | None = None) -> PurveyError:
    """Rebuild an error that crossed a process boundary as code and text, the hint included.

    An unknown code becomes an `InternalError`.
    """
    cls = error_classes().get(code, InternalError)
    error = cls.__new__(cls)
    PurveyError.__init__(error, message, param=param, hint="")
    return error
