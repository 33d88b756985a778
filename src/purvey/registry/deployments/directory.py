"""The deployments of every project in memory: what a name means, how its engines are made."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from purvey.contracts.deployment import (
    DEFAULT_PROFILE,
    DeploymentRecord,
    EngineOptions,
    Profile,
)
from purvey.contracts.records import ModelRecord
from purvey.errors import ModelNotFoundError, NotFoundError
from purvey.registry.engines.place import Key
from purvey.registry.models import ModelRegistry

_NOTHING = Profile()


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a name means.

    Args:
        record: The model.
        profile: How it is served; empty where nothing was said.
        options: What its engine is made with.
        is_profile: Whether the name was a deployment's and, behind its last colon, a profile's.
    """

    record: ModelRecord
    profile: Profile
    options: EngineOptions
    is_profile: bool = False


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How long an engine stays: idle seconds, negative for ever; pinned ones always."""

    keep_alive_s: float
    is_pinned: bool


class Directory:
    """What is known of deployments. Lives on one event loop; `Deployments` keeps it.

    Args:
        registry: The models that they name.
        options: What engines are made with where no profile says otherwise.
        keep_alive_s: How long engines stay where no profile says otherwise.
    """

    def __init__(
        self, registry: ModelRegistry, *, options: EngineOptions, keep_alive_s: float
    ) -> None:
        self._registry = registry
        self._defaults, self._keep_alive_s = options, keep_alive_s
        self._known: defaultdict[str, dict[str, DeploymentRecord]] = defaultdict(dict)

    def put(self, records: Iterable[DeploymentRecord]) -> None:
        """Know these, in place of what they were before."""
        for record in records:
            self._known[record.project_id][record.name] = record

    def remove(self, record: DeploymentRecord) -> None:
        """Know this one no more."""
        del self._known[record.project_id][record.name]

    def get(self, project_id: str, name: str) -> DeploymentRecord:
        """Return a deployment.

        Raises:
            NotFoundError: No such deployment, or another project's.
        """
        record = self._known.get(project_id, {}).get(name)
        if record is None:
            raise NotFoundError(f"no deployment {name!r}.", param="deployment")
        return record

    async def served(self, project_id: str, name: str) -> Served:
        """Find what a name means: a deployment or a model, else a deployment's profile.

        Raises:
            ModelNotFoundError: Nothing, or another project's; or the deployment's model is gone.
        """
        known = self._known.get(project_id, {})
        if name in known:
            return await self._served(known[name], DEFAULT_PROFILE)
        try:
            record = await self._registry.get(project_id, name)
        except ModelNotFoundError:
            head, _, profile = name.rpartition(":")
            if head not in known:
                raise
            return await self._served(known[head], profile, is_profile=True)
        return Served(record=record, profile=_NOTHING, options=self._defaults)

    def may_mean(self, project_id: str, name: str) -> bool:
        """Tell whether a name may be a deployment's or one of its profiles'."""
        known = self._known.get(project_id, {})
        return name in known or name.rpartition(":")[0] in known

    def options(self, profile: Profile) -> EngineOptions:
        """Return what an engine of this profile is made with."""
        window_ms = profile.batch_window_ms
        return EngineOptions(
            precision=profile.precision or self._defaults.precision,
            batch_window_s=self._defaults.batch_window_s if window_ms is None else window_ms / 1e3,
        )

    def terms(self, project_id: str, model: str, options: EngineOptions) -> Terms:
        """Return how long an engine stays: as long as the most patient of its profiles says."""
        profiles = list(self._profiles(project_id, model, options))
        kept = [
            self._keep_alive_s if profile.keep_alive_s is None else profile.keep_alive_s
            for profile in profiles
        ] or [self._keep_alive_s]
        return Terms(
            keep_alive_s=-1.0 if min(kept) < 0 else max(kept),
            is_pinned=any(profile.is_pinned for profile in profiles),
        )

    def wants(self, key: Key) -> bool:
        """Tell whether requests may mean this engine: by a profile, or by the model's name."""
        return key.options == self._defaults or any(self._profiles(*key))

    def pinned(self) -> set[Key]:
        """List the engines that are always to be there."""
        return {
            Key(record.project_id, profile.adapter or record.model, self.options(profile))
            for known in self._known.values()
            for record in known.values()
            for profile in record.profiles.values()
            if profile.is_pinned
        }

    async def _served(
        self, deployment: DeploymentRecord, name: str, *, is_profile: bool = False
    ) -> Served:
        profile = deployment.profiles.get(name)
        if profile is None and is_profile:
            there = ", ".join(map(repr, sorted(deployment.profiles))) or "none"
            raise ModelNotFoundError(
                f"the deployment {deployment.name!r} has no profile {name!r}.",
                param="model",
                hint=f"Its profiles: {there}.",
            )
        return Served(
            record=await self._registry.get(
                deployment.project_id, (profile or _NOTHING).adapter or deployment.model
            ),
            profile=profile or _NOTHING,
            options=self.options(profile or _NOTHING),
            is_profile=is_profile,
        )

    def _profiles(self, project_id: str, model: str, options: EngineOptions) -> Iterator[Profile]:
        for record in self._known.get(project_id, {}).values():
            for profile in record.profiles.values():
                if (profile.adapter or record.model) == model and self.options(profile) == options:
                    yield profile
