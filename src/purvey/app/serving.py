"""The server as a process: logs, signals, the lines a person sees, the exit."""

import asyncio
import gc
import signal
import sys
from typing import TYPE_CHECKING

import uvloop

from purvey.app.application import Application, build
from purvey.telemetry import logs

if TYPE_CHECKING:
    from purvey.settings import Settings


def serve(settings: "Settings") -> None:
    """Serve in the foreground until SIGTERM or SIGINT, then drain and return.

    A second SIGINT or SIGTERM cuts off answers that still run. The first administrator key
    is printed once, when it is made.

    Raises:
        SettingError: The server cannot start with these settings.
    """
    logs.configure(settings.log_format, settings.log_level)
    application = build(settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(application))


async def _serve(application: Application) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, application.ask_to_stop)
    running = asyncio.create_task(application.run(), name="application")
    greeting = asyncio.create_task(_greet(application), name="greeting")
    try:
        await running
    finally:
        greeting.cancel()


async def _greet(application: Application) -> None:
    """Say where the server listens, once it does, and have garbage collected from then on.

    What is there by then is never looked at again: searching it takes a fifth of a start.
    """
    while not application.is_ready:  # noqa: ASYNC110 (readiness is a threading event)
        await asyncio.sleep(0.005)
    gc.freeze()
    gc.enable()
    sys.stdout.write(f"Purvey listens on {application.base_url}\n")
    if application.first_key is not None:
        sys.stdout.write(f"Administrator key, shown this once: {application.first_key}\n")
        sys.stdout.write(
            f"For other terminals:\nexport PURVEY_BASE_URL={application.base_url} "
            f"PURVEY_API_KEY={application.first_key}\n"
        )
    sys.stdout.flush()
