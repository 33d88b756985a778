"""Names of trained models are ones that a request accepts."""

import pytest

from purvey.contracts.records import JobRecord
from purvey.registry.names import MODEL_NAME_CHARS, root_name, trained_name


def fine_tuned(*, base: str, project: str, suffix: str | None) -> str:
    job = JobRecord(
        id="ftjob-0123456789abcdef",
        project_id=project,
        key_id="key_1",
        api="fine_tuning",
        kind="training",
        status="running",
        created_at=0.0,
        recipe={},
        recipe_digest="",
        base_model=base,
        suffix=suffix,
    )
    return trained_name(job, is_taken=False)


def test_a_short_name_is_whole() -> None:
    assert fine_tuned(base="org/tiny", project="proj_a", suffix="x") == "ft:org-tiny:a:x:01234567"
    assert fine_tuned(base="tiny", project="proj_a", suffix=None) == "ft:tiny:a::01234567"


@pytest.mark.parametrize("base", ["b" * 256, "ft:" + "b" * 240 + ":a::1"])
def test_the_base_of_a_long_name_is_cut(base: str) -> None:
    project, suffix = "p" * 64, "s" * 64
    name = fine_tuned(base=base, project=project, suffix=suffix)
    assert len(name) == MODEL_NAME_CHARS
    assert name.endswith(f":{project}:{suffix}:01234567")
    assert root_name(name) == "b" * (MODEL_NAME_CHARS - 3 - 139)
    again = fine_tuned(base=name, project=project, suffix=suffix)
    assert len(again) == MODEL_NAME_CHARS
