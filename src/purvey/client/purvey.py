"""`Purvey`: one server, with a property for each kind of resource."""

from types import TracebackType

import httpx2

from purvey.client.admin import Keys, Models, Server
from purvey.client.answers import Answers, Explanations
from purvey.client.data import Datasets, FeedbackOnAnswers, Files
from purvey.client.jobs import TrainingJobs
from purvey.client.paging import Waiter
from purvey.client.sweeps import Sweeps
from purvey.client.transport import DEFAULT_BASE_URL, Transport


class Purvey:
    """A client of one server. Use it as a context manager, or `close` it.

    Args:
        base_url: Address, as given to the `openai` package: with or without `/v1`.
        api_key: A key of the server.
        timeout_s: Longest silence of the server while it answers.
        longest_pause_s: Longest pause between two looks at something unfinished, or two tries.
        http: Carrier of the requests, for tests.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_BASE_URL,
        api_key: str | None = None,
        *,
        timeout_s: float = 600.0,
        longest_pause_s: float = 2.0,
        http: httpx2.BaseTransport | None = None,
    ) -> None:
        self._transport = Transport(
            base_url=base_url,
            api_key=api_key,
            timeout_s=timeout_s,
            longest_pause_s=longest_pause_s,
            http=http,
        )
        waiter = Waiter(longest_pause_s=longest_pause_s)
        self.address = self._transport.address
        self.files = Files(self._transport)
        self.datasets = Datasets(self._transport, waiter)
        self.feedback = FeedbackOnAnswers(self._transport)
        self.training_jobs = TrainingJobs(self._transport, waiter)
        self.sweeps = Sweeps(self._transport, self.training_jobs)
        self.explanations = Explanations(self._transport, waiter)
        self.answers = Answers(self._transport)
        self.models = Models(self._transport)
        self.keys = Keys(self._transport)
        self.server = Server(self._transport)

    def close(self) -> None:
        """Give the connections back."""
        self._transport.close()

    def __enter__(self) -> "Purvey":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
