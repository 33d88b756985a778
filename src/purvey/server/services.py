"""What the routes call: every service of one server, handed over whole by the composition root."""

from collections.abc import Callable
from dataclasses import dataclass, field

from purvey.access.keys import KeyRing
from purvey.contracts.clock import Clock
from purvey.contracts.limits import LIMITS, Limits
from purvey.jobs.estimates import Estimator
from purvey.jobs.service import JobService
from purvey.meter.ledger import Meter
from purvey.network.outbound import Outbound
from purvey.network.upstream import Upstreams
from purvey.registry.deployments.book import Deployments
from purvey.registry.engines.pool import EnginePool
from purvey.registry.hub.datasets import HubDatasets
from purvey.registry.hub.pulls import Pulls
from purvey.registry.models import ModelRegistry
from purvey.registry.s3.datasets import S3Datasets
from purvey.registry.upstream_models import UpstreamModels
from purvey.store.artifacts import Artifacts
from purvey.store.blobs import Blobs
from purvey.store.database import Database
from purvey.store.sweeper import Sweeper


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a request that leaves it unsaid gets.

    Args:
        default_max_tokens: Output tokens of a generation.
        default_explanation_ms: How long an explanation is waited for before `202`.
    """

    default_max_tokens: int = 256
    default_explanation_ms: int = 30_000


@dataclass(frozen=True, kw_only=True)
class Services:
    """Everything the routes may use.

    Args:
        started_at: Monotonic seconds at which the server was built.
        is_ready: Whether new work is taken; false while the server starts or drains.
        outbound: Fetches what callers give the address of.
        pulls: Fetches models from the hub.
        hub_datasets: Fetches files of datasets from the hub.
        s3_datasets: Fetches files of datasets from a store of objects.
        upstreams: Other servers that compute models, by name.
        upstream_models: What is registered of theirs.
        allowed_hosts: Accepted `Host` names; empty or `*` accepts any well-formed one.
    """

    database: Database
    blobs: Blobs
    artifacts: Artifacts
    sweeper: Sweeper
    keys: KeyRing
    meter: Meter
    jobs: JobService
    estimator: Estimator
    models: ModelRegistry
    deployments: Deployments
    engines: EnginePool
    outbound: Outbound
    pulls: Pulls
    hub_datasets: HubDatasets
    s3_datasets: S3Datasets
    upstreams: Upstreams
    upstream_models: UpstreamModels
    clock: Clock
    is_ready: Callable[[], bool]
    started_at: float = 0.0
    limits: Limits = LIMITS
    defaults: Defaults = field(default_factory=Defaults)
    allowed_hosts: tuple[str, ...] = ()
