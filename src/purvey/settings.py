"""The server's configuration, and the only reader of the environment.

Defaults, then `purvey.toml`, then `PURVEY_*` (with `__` for nesting), then the command line;
frozen, and a name that is misspelt in any of them is refused with the nearest one.
"""

import contextlib
import json
import math
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from purvey import failpoints
from purvey.contracts.deployment import Device, Precision
from purvey.contracts.model import UPSTREAM_PATTERN
from purvey.contracts.recipe import first_problem
from purvey.errors import SettingError

PREFIX = "PURVEY_"
NESTING = "__"
DEFAULT_TOML = Path("purvey.toml")
_CGROUPS, _OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
CLIENT_VARIABLES = ("PURVEY_BASE_URL", "PURVEY_API_KEY")
"""What the client and the command line read; known names, but no settings of the server."""


def _split(separator: str) -> BeforeValidator:
    def split(value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(separator) if part.strip())
        return value

    return BeforeValidator(split)


def _json_list(value: object) -> object:
    """Read `["a", "b"]`; any other string is left to the next validator."""
    if not (isinstance(value, str) and value.lstrip().startswith("[")):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"is not a JSON list: {error}") from None  # pydantic names the field


def _plan(value: str) -> str:
    failpoints.parse(value)  # pydantic names the field
    return value


def num_processors() -> int:
    """Return how many processors this process may use at a time.

    Those it is bound to, or the whole ones of a quota (`cpu.max`, cgroup v2) where that is less:
    a team of threads that is larger is stopped in the middle of its steps.
    """
    num_bound = len(os.sched_getaffinity(0))
    return max(1, min([num_bound, *(math.floor(quota) for quota in _quotas(_CGROUPS, _OWN_GROUP))]))


def _quotas(root: Path, own: Path) -> Iterator[float]:
    """Yield what the group of this process, and each group around it, allows."""
    with contextlib.suppress(OSError, ValueError):
        name = own.read_text(encoding="ascii").partition("0::/")[2].partition("\n")[0]
        for group in (root / name, *(root / name).parents):
            if not group.is_relative_to(root):
                return
            limit = group / "cpu.max"
            if limit.exists():  # the outermost group has none
                quota, period = limit.read_text(encoding="ascii").split()
                if quota != "max":
                    yield int(quota) / int(period)


def _database_in(values: dict[str, Any]) -> str:  # fields validated so far, of any type
    folder: Path = values.get("data_dir", Path("purvey-data"))
    return f"sqlite:///{folder.absolute() / 'purvey.db'}"


# Of two validators the last one reads first.
Folders = Annotated[tuple[Path, ...], NoDecode, _split(os.pathsep), BeforeValidator(_json_list)]
Names = Annotated[tuple[str, ...], NoDecode, _split(",")]
Threads = Annotated[int, Field(ge=1, le=1_024)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class HttpSettings(BaseModel):
    """How connections are served."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    keep_alive_s: Seconds = 75.0
    """Idle seconds before a connection is closed."""
    backlog: Annotated[int, Field(ge=1, le=65_535)] = 2_048
    """Connections that wait to be accepted."""
    max_connections: Annotated[int, Field(ge=1)] = 4_096
    """Open connections; more are answered 503."""


class S3Settings(BaseModel):
    """A store of objects that tables are read from."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )

    url: str | None = None
    """The store that `s3://` means, `https://s3.eu-central-1.amazonaws.com` or
    `http://127.0.0.1:9000`; without one nothing is read from any."""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{2,40}$")] = "us-east-1"
    """The region that requests are signed for."""
    credentials_file: Path | None = None
    """A file in the form of `~/.aws/credentials`, read anew for each pull; without one requests
    are not signed, for buckets that are open to all."""
    profile: Annotated[str, Field(min_length=1, max_length=128)] = "default"
    """The part of that file that is shown."""


class MlflowSettings(BaseModel):
    """A server of MLflow that runs are told to."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )

    url: str | None = None
    """The tracking server, `http://127.0.0.1:5000`, that training jobs and sweeps are told to as
    runs; without one they are told to none."""
    experiment: Annotated[str, Field(min_length=1, max_length=128)] = "purvey"
    """The experiment that the runs are in; made if it is not there."""
    user: Annotated[str, Field(pattern=r"^[!-9;-~]{1,128}$")] | None = None
    """Whose password `key_file` holds; without one it holds a token."""
    key_file: Path | None = None
    """A file that holds what the tracking server is shown."""


class UpstreamSettings(BaseModel):
    """Another server that computes models."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )

    name: Annotated[str, Field(pattern=UPSTREAM_PATTERN)]
    """What models name it by."""
    url: str
    """What stands before `/chat/completions`: `http://127.0.0.1:8001/v1`."""
    key_file: Path | None = None
    """A file that holds the key which it is shown."""
    silence_s: Seconds = 600.0
    """How long it may say nothing, before its answer and within it."""
    max_connections: Annotated[int, Field(ge=1, le=4_096)] = 256
    """Requests to it at one time."""


class Settings(BaseSettings):
    """The server's configuration. Made by `load_settings`, or in tests from keywords alone."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=NESTING,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,  # the reference page is made from them
    )

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address to listen on; loopback unless you say otherwise."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8_000
    """Port to listen on; 0 takes a free one."""
    data_dir: Path = Path("purvey-data")
    """Folder of everything the server keeps."""
    database_url: str = Field(default_factory=_database_in)
    """`sqlite:///` and a path; `purvey.db` in `data_dir` unless given."""
    allowed_hosts: Names = ("127.0.0.1", "localhost", "[::1]")
    """Names that the `Host` header may have, separated by commas; `*` allows any."""
    outbound_hosts: Names = ()
    """Hosts that images and models may be fetched from: names or `*.` suffixes, separated by
    commas."""
    hub_host: Annotated[str, Field(min_length=1)] = "huggingface.co"
    """The hub that models are pulled from; it, and where it stores files, must be among
    `outbound_hosts`."""
    hub_token: SecretStr | None = None
    """What the server shows the hub, for gated and private models; no other host sees it."""
    upstreams: tuple[UpstreamSettings, ...] = ()
    """Other servers that compute models behind OpenAI's API: `[[upstreams]]` tables, or a JSON list
    in the variable, of `name`, `url`, `key_file`, `silence_s` and `max_connections`."""
    s3: S3Settings = S3Settings()
    """A store of objects that tables are read from."""
    mlflow: MlflowSettings = MlflowSettings()
    """A server of MLflow that runs are told to."""
    http: HttpSettings = HttpSettings()
    """How connections are served."""
    log_format: Literal["json", "console"] = "json"
    """One JSON object per line, or lines for a person."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe events that are logged."""
    bootstrap_key: SecretStr | None = None
    """The first admin key, instead of one that is made up and printed."""
    model_roots: Folders = ()
    """Folders that models may be registered from; models from the hub go into the first."""
    module_roots: Folders = ()
    """Folders that users' own modules are loaded from."""
    max_running_jobs: Annotated[int, Field(ge=0, le=1_024)] = 1
    """Jobs that run at once; 0 only queues them."""
    job_lease_s: Seconds = 30.0
    """How long a job's worker may be silent before it is given up."""
    job_heartbeat_s: Seconds = 5.0
    """How often a job's worker says that it lives."""
    job_stall_s: Seconds = 300.0
    """How long any training step may take before its worker is given up; twelve times that for the
    first, and for each later one at least twenty times the longest before it."""
    job_max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """Tries of a job whose worker dies; a checkpoint that is further on than all before begins
    the count anew."""
    job_threads: Threads = Field(default_factory=num_processors)
    """Compute threads of one job; the processors there are unless given."""
    job_share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5
    """Share of the cores that jobs keep to while requests are computed, at least one core, and
    engines to the others; at other times all may use all. 1 leaves it to the kernel."""
    model_memory_bytes: Annotated[int, Field(ge=0, le=2**50)] = 0
    """Memory that all loaded models may take together; 0 means three quarters of the machine's.
    The least recently used idle model leaves when another needs its room."""
    max_loaded_models: Annotated[int, Field(ge=1, le=1_024)] = 16
    """Loaded models at most, whatever memory they take: each is a process of its own."""
    keep_alive_s: Annotated[float, Field(ge=-1, le=31_536_000, allow_inf_nan=False)] = 1_800.0
    """Idle seconds before a model leaves memory, unless a profile says otherwise; 0 at once, -1
    never."""
    room_wait_s: Seconds = 120.0
    """How long a request may wait for room in memory for its model while others are in use."""
    engine_threads: Threads = Field(default_factory=num_processors)
    """Compute threads of one engine; the processors there are unless given."""
    precision: Precision = "auto"
    """What language models are computed in unless a deployment's profile says: `auto` leaves models
    under 50 million weights in fp32 and takes int8 for others where the processor multiplies
    8-bit integers exactly, else bf16 where it multiplies those, else fp32."""
    device: Device = "auto"
    """Where language models are computed: `auto` takes the first CUDA device where there is one, in
    bf16 unless `precision` says fp32, and else the processor."""
    training_device: Device = "cpu"
    """Where networks learn: `cuda` is the first CUDA device, or one for each rank, and `auto` that
    where there is one. More ranks than devices, adapters of a base in 4 bits, embeddings, Whisper
    and models that see stay on the processor."""
    kv_cache_bytes: Annotated[int, Field(ge=2**20)] = 256 * 2**20
    """KV cache of one engine."""
    prepacked_bytes: Annotated[int, Field(ge=0, le=2**50)] = 16 * 2**30
    """Disk for weights as they are computed with, in `data_dir`, so that a second load of a model
    is quick; the least recently used leave first, and 0 keeps none."""
    spare_engine: bool = True
    """Whether an engine process without a model waits for the next load, which then need not
    import the tensor library; it takes about 160 MiB."""
    adapter_bytes: Annotated[int, Field(ge=0)] = 256 * 2**20
    """What the adapters of one engine may take together; part of `model_memory_bytes`, and only as
    far as adapters are loaded."""
    prefix_cache: bool = True
    """Whether the beginning of a prompt that the KV cache still holds from an earlier one of the
    same project is used again, rather than computed."""
    max_batch_tokens: Annotated[int, Field(ge=64, le=65_536)] = 512
    """Tokens of one engine step."""
    default_max_tokens: Annotated[int, Field(ge=1, le=131_072)] = 256
    """Output tokens of a request that does not say how many."""
    drain_timeout_s: Seconds = 20.0
    """How long a stopping server waits for running requests and jobs."""
    failpoints: Annotated[str, AfterValidator(_plan)] = ""
    """Faults to inject, `NAME=ACTION` by commas; for tests of the server, no wheel accepts it."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take keywords only: `load_settings` is where the sources are joined."""
        return (init_settings,)


def load_settings(
    *, flags: Mapping[str, object] | None = None, toml: Path | None = None
) -> Settings:
    """Join defaults, file, environment and flags.

    Args:
        flags: Setting to value, nested ones dotted (`http.backlog`); None means not given.
        toml: The file, which must be there; None looks for `purvey.toml` in the current folder
            and goes without.

    Raises:
        SettingError: Names the setting at fault, and the nearest known name of a misspelt one.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    from_flags = _nest(given)
    from_toml = _read_toml(toml)
    _refuse_unknown(from_toml, Settings, spell=_as_toml)
    _refuse_unknown(_environment_names(), Settings, spell=_as_variable)
    _refuse_unknown(from_flags, Settings, spell=_as_flag)
    merged = _merge(_merge(from_toml, _from_environment()), from_flags)
    try:
        return Settings(**merged)
    except ValidationError as error:
        problem = first_problem(error, Settings)
        raise SettingError(problem.message, param=problem.param) from None


class ClientEnvironment(NamedTuple):
    """Where the client finds its server and what it shows there, as the environment says."""

    base_url: str | None
    api_key: str | None


def client_environment() -> ClientEnvironment:
    """Read `PURVEY_BASE_URL` and `PURVEY_API_KEY`; an empty one counts as absent."""
    base_url, api_key = (os.environ.get(name) or None for name in CLIENT_VARIABLES)
    return ClientEnvironment(base_url=base_url, api_key=api_key)


def _nest(flags: Mapping[str, object]) -> dict[str, Any]:
    nested: dict[str, Any] = {}  # setting values of any type, not validated yet
    for name, value in flags.items():
        *parents, leaf = name.split(".")
        inner = nested
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[leaf] = value
    return nested


def _read_toml(path: Path | None) -> dict[str, Any]:
    if path is None and not DEFAULT_TOML.exists():
        return {}
    chosen = DEFAULT_TOML if path is None else path
    try:
        return tomllib.loads(chosen.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or "it cannot be read"
        raise SettingError(f"{str(chosen)!r} cannot be read: {reason}.", param="toml") from None
    except ValueError as error:  # not UTF-8, or not TOML
        raise SettingError(f"{str(chosen)!r} is not TOML: {error}.", param="toml") from None


def _from_environment() -> dict[str, Any]:
    try:
        return EnvSettingsSource(Settings)()
    except SettingsError as error:
        raise SettingError(f"the environment: {error}.") from None


def _environment_names() -> dict[str, Any]:
    """Return the names of `PURVEY_*` variables, nested like the settings they claim to be."""
    names: dict[str, Any] = {}
    for variable in sorted(os.environ):
        if variable.upper().startswith(PREFIX) and variable.upper() not in CLIENT_VARIABLES:
            *parents, leaf = variable.lower().removeprefix(PREFIX.lower()).split(NESTING)
            inner = names
            for parent in parents:
                inner = _inner(inner, parent)
            inner.setdefault(leaf, None)
    return names


def _inner(names: dict[str, Any], parent: str) -> dict[str, Any]:
    if not isinstance(names.get(parent), dict):
        names[parent] = {}
    found: dict[str, Any] = names[parent]
    return found


def _refuse_unknown(
    values: Mapping[str, Any],
    schema: type[BaseModel],
    *,
    spell: Callable[[list[str]], str],
    path: tuple[str, ...] = (),
) -> None:
    """Refuse the first name that is no setting, spelt the way its source spells it."""
    for name, value in values.items():
        here = [*path, name]
        field = schema.model_fields.get(name)
        if field is None:
            raise _unknown(here, schema, spell)
        inner = field.annotation
        is_section = isinstance(inner, type) and issubclass(inner, BaseModel)
        if is_section and isinstance(value, Mapping):
            _refuse_unknown(value, cast("type[BaseModel]", inner), spell=spell, path=tuple(here))
        elif isinstance(value, Mapping):
            below = spell([*here, *value][: len(here) + 1])
            raise SettingError(f"{below!r}: {spell(here)!r} has no parts.", param=below)


def _unknown(
    path: list[str], schema: type[BaseModel], spell: Callable[[list[str]], str]
) -> SettingError:
    nearest = get_close_matches(path[-1], schema.model_fields, n=1)
    hint = f"Did you mean {spell([*path[:-1], nearest[0]])!r}?" if nearest else ""
    return SettingError(f"unknown setting {spell(path)!r}.", param=spell(path), hint=hint)


def _as_toml(path: list[str]) -> str:
    return ".".join(path)


def _as_variable(path: list[str]) -> str:
    return PREFIX + NESTING.join(path).upper()


def _as_flag(path: list[str]) -> str:
    return "--" + ".".join(path).replace("_", "-")


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `above` over `below`, section by section."""
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        is_section = isinstance(under, Mapping) and isinstance(value, Mapping)
        merged[name] = _merge(cast("Mapping[str, Any]", under), value) if is_section else value
    return merged
