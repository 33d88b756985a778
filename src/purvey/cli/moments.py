"""Times and spans as a person reads them."""

import datetime


def local_time(seconds: float | None) -> str | None:
    """Return epoch seconds as local date and time to the second."""
    if seconds is None:
        return None
    moment = datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def span(seconds: float | None) -> str:
    """Return a span as `42 s`, `3:07` or `1:02:59`."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
