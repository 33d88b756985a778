"""A workshop whose workers wait until they are told: most of these tests are about waiting jobs."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from purvey.testing.scripted_jobs import ScriptedJobLauncher, until_stopped
from purvey.testing.workshop import Workshop


@pytest.fixture
def launcher() -> ScriptedJobLauncher:
    return ScriptedJobLauncher(until_stopped)


@pytest.fixture
async def workshop(tmp_path: Path, launcher: ScriptedJobLauncher) -> AsyncIterator[Workshop]:
    async with Workshop(tmp_path, launcher) as workshop:
        yield workshop
