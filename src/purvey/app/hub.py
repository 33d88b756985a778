"""The hub, as the settings name it: models and files of datasets that come from there."""

from typing import TYPE_CHECKING

from purvey.app.data_folder import DataFolder
from purvey.network.outbound import Outbound
from purvey.registry.hub.datasets import HubDatasets
from purvey.registry.hub.pulls import Pulls

if TYPE_CHECKING:
    from purvey.settings import Settings


def pulls_of(settings: "Settings", outbound: Outbound) -> Pulls:
    """Return what fetches models into the first model root."""
    return Pulls(
        outbound,
        host=settings.hub_host,
        token=_token(settings),
        root=settings.model_roots[0] if settings.model_roots else None,
    )


def hub_datasets_of(settings: "Settings", outbound: Outbound, folder: DataFolder) -> HubDatasets:
    """Return what fetches files of datasets by way of the cache."""
    return HubDatasets(
        outbound,
        host=settings.hub_host,
        token=_token(settings),
        folder=folder.cache / "hub-datasets",
    )


def _token(settings: "Settings") -> str | None:
    return settings.hub_token.get_secret_value() if settings.hub_token else None
