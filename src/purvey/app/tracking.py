"""The tracking server, as the settings name it, and what it has been told."""

import base64
import hashlib
from typing import TYPE_CHECKING

from purvey.app.data_folder import DataFolder
from purvey.app.upstream_keys import read_key
from purvey.contracts.clock import Clock
from purvey.network.base_urls import Kind
from purvey.network.sites import Site
from purvey.server.reporting.tracking.following import Follower
from purvey.server.reporting.tracking.mlflow import PARAM, Mlflow
from purvey.store.database import Database

if TYPE_CHECKING:
    from purvey.settings import MlflowSettings

KIND = Kind(
    noun="setting", setting=PARAM, hint="Write 'http://127.0.0.1:5000', what a browser opens."
)


def follower_of(
    settings: "MlflowSettings", database: Database, folder: DataFolder, clock: Clock
) -> Follower | None:
    """Return who tells the tracking server of jobs; None where the settings name none.

    Raises:
        SettingError: Its URL is none, or the key file holds no key.
    """
    if settings.url is None:
        return None
    site = Site(
        settings.url, name="the tracking server", kind=KIND, most=1, monotonic=clock.monotonic
    )
    mlflow = Mlflow(site, authorization=_authorization(settings), experiment=settings.experiment)
    whose = hashlib.sha256(f"{settings.url} {settings.experiment}".encode()).hexdigest()
    return Follower(database, mlflow, mark=folder.cache / f"mlflow-{whose[:16]}")


def _authorization(settings: "MlflowSettings") -> str | None:
    if settings.key_file is None:
        return None
    key = read_key(settings.key_file, whose="the tracking server", param="mlflow.key_file")
    if settings.user is None:
        return f"Bearer {key}"
    return f"Basic {base64.b64encode(f'{settings.user}:{key}'.encode()).decode()}"
