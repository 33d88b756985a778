"""`purvey demo`: the whole life cycle on real data that is already on the machine."""

from pathlib import Path
from typing import TYPE_CHECKING

from purvey.cli.showcase.home import Home
from purvey.cli.showcase.language_story import QUESTION, tell_language
from purvey.cli.showcase.narration import Narrator
from purvey.cli.showcase.vision_story import tell_vision
from purvey.cli.terminal import print_json
from purvey.errors import UserError

if TYPE_CHECKING:
    from openai import OpenAI

FOLDER = Path("demo-output")


def run_demo(*, exit_at_end: bool, as_json: bool) -> None:
    """Run both stories against a server of its own, then leave it up unless told to end.

    Args:
        exit_at_end: Stop the server and return instead of staying.
        as_json: Print the summary as JSON on standard output, the story on standard error.

    Raises:
        PurveyError: A step failed.
    """
    narrator = Narrator(as_json=as_json)
    with Home(FOLDER) as home:
        home.wait_ready()
        narrator.say(f"server at {home.address}, its log in {home.folder / 'server.log'}")
        official = _official(home)
        tell_vision(home, official, narrator)
        model = tell_language(home, official, narrator)
        if as_json:
            print_json(narrator.summary)
        if not exit_at_end:
            _invite(home, narrator, model)
            home.stay()


def _official(home: Home) -> "OpenAI":
    try:
        from openai import OpenAI
    except ImportError:
        raise UserError(
            "the demonstration talks through the official client.", hint="Install purvey[demo]."
        ) from None
    return OpenAI(base_url=f"{home.address}/v1", api_key=home.key)


def _invite(home: Home, narrator: Narrator, model: str) -> None:
    narrator.heading("The server stays up. In another terminal:")
    narrator.say(f"export PURVEY_BASE_URL={home.address} PURVEY_API_KEY={home.key}")
    narrator.say(f'.venv/bin/purvey run "{model}" --prompt "{QUESTION}"')
    narrator.heading("or, with the openai package:")
    narrator.out.print(
        "from openai import OpenAI\n"
        f'client = OpenAI(base_url="{home.address}/v1", api_key="{home.key}")\n'
        "print(client.chat.completions.create(\n"
        f'    model="{model}", temperature=0,\n'
        f'    messages=[{{"role": "user", "content": "{QUESTION}"}}],\n'
        ").choices[0].message.content)",
        markup=False,
    )
    narrator.say("Ctrl-C stops it.")
