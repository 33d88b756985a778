"""Files, datasets, and feedback that they learn from."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from purvey.client.paging import Waiter, items
from purvey.client.transport import Json, Transport
from purvey.client.values import Dataset, Feedback, File, Page
from purvey.errors import InvalidFileError, from_code


class Files:
    """Uploaded files."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(self, path: Path, *, purpose: str = "user_data") -> File:
        """Send a file.

        Raises:
            InvalidFileError: There is no such file here.
        """
        if not path.is_file():
            raise InvalidFileError(f"no file at {str(path)!r}.", param="file")
        with path.open("rb") as content:
            return self._transport.upload(
                "/v1/files", File, fields={"purpose": purpose}, name=path.name, content=content
            )

    def list(self) -> Iterator[File]:
        """Yield every file, newest first."""
        return items(self._transport, "/v1/files", Page[File])

    def content(self, file_id: str) -> bytes:
        """Return a file's bytes."""
        return self._transport.fetch(f"/v1/files/{quote(file_id, safe='')}/content")

    def delete(self, file_id: str) -> None:
        """Delete a file that nothing unfinished refers to."""
        self._transport.delete(f"/v1/files/{quote(file_id, safe='')}")


class Datasets:
    """Versioned tables made from files."""

    def __init__(self, transport: Transport, waiter: Waiter) -> None:
        self._transport, self._waiter = transport, waiter

    def create(
        self,
        file_ids: Sequence[str],
        *,
        name: str | None = None,
        columns: dict[str, str] | None = None,
        options: Json | None = None,
    ) -> Dataset:
        """Start building a dataset; `wait` for it before training.

        Args:
            file_ids: Uploaded files.
            name: Its name.
            columns: Kind by column name, where inference is not wanted.
            options: `format`, `deduplicate`, `splits`, `seed`.
        """
        body: Json = {"file_ids": list(file_ids), **(options or {})}
        if name is not None:
            body["name"] = name
        if columns:
            body["columns"] = columns
        return self._transport.create("/v1/datasets", Dataset, body=body)

    def add_version(
        self, dataset_id: str, *, file_ids: Sequence[str] = (), feedback_model: str | None = None
    ) -> Dataset:
        """Start building a version with more rows; the dataset itself stays as it is.

        Args:
            dataset_id: Which.
            file_ids: More files, with its columns.
            feedback_model: A model whose feedback is learned from.
        """
        body: Json = {"file_ids": list(file_ids)}
        if feedback_model is not None:
            body["feedback_model"] = feedback_model
        path = f"/v1/datasets/{quote(dataset_id, safe='')}/versions"
        return self._transport.create(path, Dataset, body=body)

    def get(self, dataset_id: str) -> Dataset:
        """Return a dataset with its profile."""
        return self._transport.get(f"/v1/datasets/{quote(dataset_id, safe='')}", Dataset)

    def list(self) -> Iterator[Dataset]:
        """Yield every dataset, newest first."""
        return items(self._transport, "/v1/datasets", Page[Dataset])

    def delete(self, dataset_id: str) -> None:
        """Delete a dataset that nothing unfinished refers to."""
        self._transport.delete(f"/v1/datasets/{quote(dataset_id, safe='')}")

    def wait(
        self, dataset_id: str, *, on_change: Callable[[Dataset], None] | None = None
    ) -> Dataset:
        """Wait until a dataset is ready.

        Args:
            dataset_id: Which.
            on_change: Called with what each look finds.

        Raises:
            PurveyError: The error that the dataset failed with.
        """
        for _ in self._waiter.turns():
            found = self.get(dataset_id)
            if on_change is not None:
                on_change(found)
            if found.status == "ready":
                return found
            if found.status == "failed":
                error = found.error or {}
                raise from_code(
                    str(error.get("code", "job_failed")),
                    str(error.get("message", "the dataset failed")),
                    param=error.get("param"),
                )
        raise AssertionError("turns never end")


class FeedbackOnAnswers:
    """Ratings and corrections of answers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, model: str, given: Json) -> Feedback:
        """Keep feedback on one answer.

        Args:
            model: The model that answered.
            given: `input` or `request_id`, `output`, `rating`, `correction`, `metadata`.
        """
        return self._transport.create("/v1/feedback", Feedback, body={"model": model, **given})

    def list(self, *, model: str | None = None) -> Iterator[Feedback]:
        """Yield every piece of feedback, or all on one model, newest first."""
        query = {"model": model} if model is not None else None
        return items(self._transport, "/v1/feedback", Page[Feedback], query=query)

    def delete(self, feedback_id: str) -> None:
        """Delete feedback; what was made of it stays."""
        self._transport.delete(f"/v1/feedback/{quote(feedback_id, safe='')}")
