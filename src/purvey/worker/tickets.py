"""Who is being served: one ticket per question, so that a reused id is never mistaken."""

import threading
from dataclasses import dataclass


@dataclass(kw_only=True, eq=False)
class Ticket:
    """One question on its way; the id may be asked again before its ticket is closed."""

    request_id: str
    is_cancelled: bool = False


class Tickets:
    """The open tickets. Safe in any thread.

    Invariant: `_newest` holds, by id, the last ticket that was opened, until it is closed.
    """

    def __init__(self) -> None:
        self._newest: dict[str, Ticket] = {}
        self._lock = threading.Lock()

    def open(self, request_id: str) -> Ticket:
        """Return the ticket of a new question; an older one of its id had its last answer."""
        ticket = Ticket(request_id=request_id)
        with self._lock:
            self._newest[request_id] = ticket
        return ticket

    def cancel(self, request_id: str) -> None:
        """Mark the question that carries the id now; unknown ids are left alone."""
        with self._lock:
            ticket = self._newest.get(request_id)
            if ticket is not None:
                ticket.is_cancelled = True

    def close(self, ticket: Ticket) -> bool:
        """Forget a ticket; return whether it was cancelled while it was open."""
        with self._lock:
            if self._newest.get(ticket.request_id) is ticket:
                del self._newest[ticket.request_id]
            return ticket.is_cancelled
