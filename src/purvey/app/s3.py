"""The store of objects, as the settings name it."""

from typing import TYPE_CHECKING

from purvey.app.data_folder import DataFolder
from purvey.contracts.clock import Clock
from purvey.contracts.limits import LIMITS
from purvey.errors import SettingError
from purvey.network.base_urls import Kind
from purvey.network.sites import Site
from purvey.registry.s3.datasets import THE_STORE, S3Datasets
from purvey.registry.s3.objects import Store

if TYPE_CHECKING:
    from purvey.settings import S3Settings

KIND = Kind(
    noun="setting",
    setting="s3.url",
    hint="Write 'https://s3.eu-central-1.amazonaws.com' or 'http://127.0.0.1:9000'.",
)


def s3_datasets_of(settings: "S3Settings", folder: DataFolder, clock: Clock) -> S3Datasets:
    """Return what fetches files of datasets by way of the cache.

    Raises:
        SettingError: The store's URL is none, or has a path.
    """
    store = None
    if settings.url is not None:
        site = Site(
            settings.url,
            name=THE_STORE,
            kind=KIND,
            most=LIMITS.running_pulls,
            monotonic=clock.monotonic,
        )
        if site.path:  # it would be a part of what is signed
            raise SettingError(
                "the store's url has a path; buckets are what follows it.",
                param=KIND.setting,
                hint=KIND.hint,
            )
        store = Store(
            site,
            region=settings.region,
            credentials_file=settings.credentials_file,
            profile=settings.profile,
            now=clock.now,
        )
    return S3Datasets(store, folder=folder.cache / "s3")
