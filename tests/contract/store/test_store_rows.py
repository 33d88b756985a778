"""Files, datasets, models and explanations beyond what every kind shares."""

from typing import TYPE_CHECKING

import pytest
from sqlalchemy.exc import IntegrityError

from purvey.errors import ConflictError, NotFoundError
from purvey.store import datasets, explanations, files, jobs, models
from purvey.store.database import Database

if TYPE_CHECKING:
    from tests.contract.store.conftest import Records

OURS, THEIRS = "proj_ours", "proj_theirs"


def test_records_come_back_as_they_went(database: Database, make: "Records") -> None:
    dataset = make.dataset(manifest={"rows": {"train": 3}}, file_ids=("a", "b"))
    model = make.model("ft:base:ours:x:1", base_model="base", job_id="job_1", artifact="f" * 64)
    explanation = make.explanation(body={"units": [{"score": 0.5, "text": "好"}]})
    database.write_now(lambda c: datasets.insert(c, dataset))
    database.write_now(lambda c: models.insert(c, model))
    database.write_now(lambda c: explanations.insert(c, explanation))
    assert database.read_now(lambda c: datasets.get(c, OURS, dataset.id)) == dataset
    assert database.read_now(lambda c: models.get(c, OURS, model.name)) == model
    assert database.read_now(lambda c: explanations.get(c, OURS, explanation.id)) == explanation


def test_every_row_belongs_to_a_project_that_is_there(database: Database, make: "Records") -> None:
    with pytest.raises(IntegrityError):
        database.write_now(lambda c: files.insert(c, make.file(project_id="proj_none")))


def test_a_deleted_file_is_gone(database: Database, make: "Records") -> None:
    database.write_now(lambda c: files.insert(c, make.file()))
    database.write_now(lambda c: files.delete(c, OURS, "file-1"))
    with pytest.raises(NotFoundError):
        database.read_now(lambda c: files.get(c, OURS, "file-1"))


def test_files_are_listed_by_purpose(database: Database, make: "Records") -> None:
    database.write_now(lambda c: files.insert(c, make.file("file-1")))
    database.write_now(lambda c: files.insert(c, make.file("file-2", purpose="vision")))
    page = database.read_now(lambda c: files.page(c, OURS, after=None, limit=9, purpose="vision"))
    assert [file.id for file in page.items] == ["file-2"]


def test_unfinished_work_refers_to_its_files(database: Database, make: "Records") -> None:
    def needed(file_id: str, project: str = OURS) -> set[str]:
        return set(database.read_now(lambda c: files.references(c, project, file_id)))

    database.write_now(
        lambda c: jobs.insert(c, make.job(training_file="file-1", validation_file="file-2"))
    )
    database.write_now(
        lambda c: jobs.insert(c, make.job("job_2", training_file="file-1", status="failed"))
    )
    database.write_now(lambda c: datasets.insert(c, make.dataset(file_ids=("file-2", "file-3"))))
    assert needed("file-1") == {"job_1"}
    assert needed("file-2") == {"job_1", "ds_1"}
    assert needed("file-3") == {"ds_1"}
    assert needed("file-1", THEIRS) == set()
    database.write_now(lambda c: datasets.finish(c, "ds_1", status="ready"))
    database.write_now(lambda c: jobs.move(c, "job_1", to="cancelled", now=2.0))
    assert needed("file-2") == set()


def test_a_blob_is_used_while_any_project_has_a_row_of_it(
    database: Database, make: "Records"
) -> None:
    database.write_now(lambda c: files.insert(c, make.file("file-1")))
    database.write_now(lambda c: files.insert(c, make.file("file-2", project_id=THEIRS)))
    database.write_now(lambda c: files.delete(c, OURS, "file-1"))
    assert database.read_now(lambda c: files.is_blob_used(c, "a" * 64))
    database.write_now(lambda c: files.delete(c, THEIRS, "file-2"))
    assert not database.read_now(lambda c: files.is_blob_used(c, "a" * 64))


def test_a_dataset_is_finished_by_its_job(database: Database, make: "Records") -> None:
    database.write_now(lambda c: datasets.insert(c, make.dataset()))
    dataset = database.read_now(lambda c: datasets.of_job(c, "job_1"))
    database.write_now(
        lambda c: datasets.finish(
            c, dataset.id, status="ready", artifact="b" * 64, manifest={"rows": {}}
        )
    )
    ready = database.read_now(lambda c: datasets.get(c, OURS, "ds_1"))
    assert (ready.status, ready.artifact, ready.manifest) == ("ready", "b" * 64, {"rows": {}})


def test_finishing_a_deleted_dataset_is_refused(database: Database, make: "Records") -> None:
    database.write_now(lambda c: datasets.insert(c, make.dataset()))
    database.write_now(lambda c: datasets.delete(c, OURS, "ds_1"))
    with pytest.raises(NotFoundError):
        database.write_now(lambda c: datasets.finish(c, "ds_1", status="failed"))
    with pytest.raises(NotFoundError):
        database.read_now(lambda c: datasets.of_job(c, "job_1"))


def test_a_models_name_is_unique_in_its_project(database: Database, make: "Records") -> None:
    database.write_now(lambda c: models.insert(c, make.model()))
    with pytest.raises(ConflictError):
        database.write_now(lambda c: models.insert(c, make.model(digest="0" * 64)))
    database.write_now(lambda c: models.insert(c, make.model(project_id=THEIRS)))
    ours = database.read_now(lambda c: models.get(c, OURS, "spam"))
    assert (ours.project_id, ours.digest) == (OURS, "f" * 64)


def test_models_are_listed_by_base(database: Database, make: "Records") -> None:
    database.write_now(lambda c: models.insert(c, make.model("base")))
    database.write_now(lambda c: models.insert(c, make.model("tuned", base_model="base")))
    page = database.read_now(lambda c: models.page(c, OURS, after=None, limit=9, base_model="base"))
    assert [model.name for model in page.items] == ["tuned"]


def test_an_explanation_is_finished(database: Database, make: "Records") -> None:
    database.write_now(lambda c: explanations.insert(c, make.explanation()))
    database.write_now(
        lambda c: explanations.finish(
            c, OURS, "expl_1", status="completed", body={"a": 1}, picture_file="file-9"
        )
    )
    done = database.read_now(lambda c: explanations.get(c, OURS, "expl_1"))
    assert (done.status, done.body, done.picture_file) == ("completed", {"a": 1}, "file-9")
