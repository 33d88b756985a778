"""`purvey usage`: what the ledger adds up to."""

from typing import Annotated, Literal

import typer

from purvey.cli.connection import connect
from purvey.cli.moments import span
from purvey.cli.terminal import AsJson, print_json, print_table


def usage(
    by: Annotated[
        Literal["model", "kind", "day"], typer.Option(help="What the lines stand for.")
    ] = "model",
    as_json: AsJson = False,
) -> None:
    """Show what the project has used."""
    with connect() as client:
        totals = client.server.usage(by=by)
    if as_json:
        print_json(totals)
        return
    rows = [
        (
            t.group,
            t.requests,
            t.input_tokens,
            t.output_tokens,
            t.images,
            span(t.audio_s),
            t.rows,
            span(t.compute_s),
        )
        for t in totals
    ]
    counted = ("TOKENS IN", "TOKENS OUT", "IMAGES", "AUDIO", "ROWS", "COMPUTE")
    print_table((by.upper(), "REQUESTS", *counted), rows, empty="Nothing used yet.")
