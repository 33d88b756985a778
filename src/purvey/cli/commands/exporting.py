"""`purvey export`: a model's files, to be taken elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from purvey.cli.connection import connect
from purvey.cli.terminal import AsJson, print_json, print_table


def export(
    name: Annotated[str, typer.Argument(help="A model that a job made.")],
    folder: Annotated[Path, typer.Argument(help="Where its files go; a folder that is not there.")],
    as_json: AsJson = False,
) -> None:
    """Fetch the files of a model that was made here: one that `transformers` or `peft` loads.

    What was fine-tuned with LoRA is an adapter in PEFT's format, without its base.
    """
    with connect() as client:
        files = client.models.export(name, folder)
    if as_json:
        print_json({"model": name, "folder": str(folder), "files": files})
    else:
        rows = [(one.file, f"{one.bytes:,}") for one in files]
        print_table(("FILE", "BYTES"), rows, empty="The model has no files.")
