"""The `purvey` command: its subcommands, and how every one of them ends."""

import sys
from collections.abc import Sequence

import typer
from typer.main import get_command

from purvey import __version__
from purvey.cli.commands import feedback, jobs, keys
from purvey.cli.commands.backing_up import backup, restore
from purvey.cli.commands.chatting import run as run_model
from purvey.cli.commands.doctor import doctor
from purvey.cli.commands.explaining import explain
from purvey.cli.commands.exporting import export
from purvey.cli.commands.listing import list_objects, remove, show
from purvey.cli.commands.pulling import pull
from purvey.cli.commands.residency import ps, stop
from purvey.cli.commands.serving import serve
from purvey.cli.commands.sweeping import sweep
from purvey.cli.commands.training import train
from purvey.cli.commands.usage import usage
from purvey.cli.terminal import AsJson, console, print_error
from purvey.errors import PurveyError, UserError

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT."""

app = typer.Typer(
    name="purvey",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        console().print(__version__, markup=False)
        raise typer.Exit


@app.callback()
def purvey(
    version: bool = typer.Option(
        False, "--version", callback=_tell_version, is_eager=True, help="Print the version and end."
    ),
) -> None:
    """Large models as a service, on hardware you own."""


@app.command()
def demo(
    exit_at_end: bool = typer.Option(False, "--exit", help="End instead of staying up."),
    as_json: AsJson = False,
) -> None:
    """Watch data become trained, tested, served and explained models on this machine."""
    from purvey.cli.demo import run_demo

    run_demo(exit_at_end=exit_at_end, as_json=as_json)


app.command()(serve)
app.command("run")(run_model)
app.command("chat", help="The same as `run`.")(run_model)
app.command()(pull)
app.command()(train)
app.command()(sweep)
app.add_typer(jobs.app, name="jobs")
app.add_typer(feedback.app, name="feedback")
app.command("list")(list_objects)
app.command()(show)
app.command("rm")(remove)
app.command()(export)
app.command()(ps)
app.command()(stop)
app.command()(explain)
app.add_typer(keys.app, name="keys")
app.command()(usage)
app.command()(doctor)
app.command()(backup)
app.command()(restore)


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the status that belongs to the outcome.

    Args:
        arguments: Words after `purvey`; the process's own when None.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    sys.exit(_status(words))


def _status(words: list[str]) -> int:
    try:
        result = get_command(app).main(args=words, prog_name="purvey", standalone_mode=False)
    except PurveyError as error:
        print_error(error, as_json="--json" in words)
        return error.exit_status
    except typer.TyperException as error:
        if not error.format_message():  # the help was printed instead
            return UserError.exit_status
        usage = UserError(
            f"{error.format_message().rstrip('.')}.", hint="`purvey --help` lists what there is."
        )
        print_error(usage, as_json="--json" in words)
        return usage.exit_status
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return result if isinstance(result, int) else 0
