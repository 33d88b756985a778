"""`purvey explain`: which parts of the input made the model say that."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from purvey.cli.connection import connect
from purvey.cli.terminal import AsJson, console, print_json, print_table
from purvey.errors import InvalidFileError, InvalidValueError

if TYPE_CHECKING:
    from purvey.client.transport import Json
    from purvey.client.values import Explanation
    from purvey.contracts.explain import Faithfulness, Unit

SHOWN_UNITS = 20
CAVEAT = (
    "A score is how far the target's value falls when that part alone is taken away: "
    "it tells what this model used, not what is true."
)


def explain(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    text: Annotated[str | None, typer.Argument(help="Text to explain.")] = None,
    image: Annotated[Path | None, typer.Option(help="Image to explain, instead of text.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where the heat map goes [explanation.png].")
    ] = None,
    answer: Annotated[
        str | None, typer.Option(help="Generated text to explain [the model's own].")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Class to explain [the first].")] = None,
    contrast: Annotated[str | None, typer.Option(help="Why the class rather than this.")] = None,
    units: Annotated[
        Literal["auto", "turn", "sentence", "word", "patch"], typer.Option(help="Parts to score.")
    ] = "auto",
    max_forwards: Annotated[int | None, typer.Option(help="Forward passes to spend.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random orders compared with.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Score the parts of an input by what they did to the outcome, and measure the ranking."""
    with connect() as client:
        task = client.models.get(model).task
        is_chat = task == "text-generation" and client.answers.takes_chat(model)
        found = client.explanations.create(
            model,
            _source(text, image, is_chat=is_chat),
            output={"text": answer} if answer is not None else None,
            target=_target(label, contrast),
            units=units,
            budget={"max_forwards": max_forwards} if max_forwards is not None else None,
            include=["heatmap_png"] if image is not None else None,
            seed=seed,
        )
        found = client.explanations.wait(found)
        picture = client.explanations.picture(found) if image is not None else None
    saved = _save(picture, output or Path("explanation.png")) if picture else None
    if as_json:
        print_json(found)
        return
    print_explanation(found)
    if saved:
        console().print(f"Heat map: {saved}", markup=False)


def print_explanation(found: "Explanation") -> None:
    """Print the strongest parts, the verdict and what it does not mean."""
    out = console()
    if found.status != "completed" or found.target is None or found.faithfulness is None:
        out.print(f"{found.id}: {found.status}", markup=False)
        return
    target = found.target
    aim = repr(target.label if target.kind == "label" else target.text)
    against = f" rather than {target.contrast!r}" if target.contrast else ""
    is_odds = target.kind == "label" and target.contrast is None
    unit = "log-odds" if is_odds else target.unit.replace("_", " ")
    out.print(
        f"{found.model}: why {aim}{against}  "
        f"({unit} {target.value_full:.3g}, without the input {target.value_empty:.3g})",
        markup=False,
    )
    ranked = sorted(found.units, key=lambda unit: unit.rank)
    rows = [(u.rank, f"{u.score:+.3f}", _bar(u, ranked), _place(u)) for u in ranked[:SHOWN_UNITS]]
    print_table(("RANK", "SCORE", "", "PART"), rows, empty="No parts.")
    if len(ranked) > SHOWN_UNITS:
        out.print(f"... and {len(ranked) - SHOWN_UNITS} weaker parts", markup=False)
    out.print(_verdict(found.faithfulness), markup=False)
    for warning in found.warnings:
        out.print(f"warning: {warning}", markup=False)
    out.print(CAVEAT, style="dim")


def _source(text: str | None, image: Path | None, *, is_chat: bool) -> "Json":
    from purvey.client.answers import image_input

    if (text is None) == (image is None):
        raise InvalidValueError("give a text or --image, one of the two.", param="input")
    if image is not None:
        if not image.is_file():
            raise InvalidFileError(f"no file at {str(image)!r}.", param="image")
        return image_input(image)
    if is_chat:
        return {"messages": [{"role": "user", "content": text}]}
    return {"text": text}


def _target(label: str | None, contrast: str | None) -> "Json | None":
    given = {"label": label, "contrast": contrast}
    return {name: value for name, value in given.items() if value is not None} or None


def _save(picture: bytes, path: Path) -> Path:
    try:
        path.write_bytes(picture)
    except OSError as error:
        raise InvalidFileError(
            f"{str(path)!r} cannot be written: {error.strerror}.", param="output"
        ) from None
    return path


def _place(unit: "Unit") -> str:
    if unit.text is not None:
        return " ".join(unit.text.split())
    left, top, right, bottom = unit.box or (0, 0, 0, 0)
    return f"columns {left}-{right}, rows {top}-{bottom}"


def _bar(unit: "Unit", ranked: "list[Unit]") -> str:
    """Draw the score as a bar: full blocks support, light ones oppose."""
    strongest = max(abs(other.score) for other in ranked) or 1.0
    length = round(16 * abs(unit.score) / strongest)
    return ("█" if unit.score >= 0 else "░") * length


def _verdict(measured: "Faithfulness") -> str:
    return (
        f"verdict: {measured.verdict}  (gap {measured.gap:.2f} against "
        f"{measured.random_gap.mean:.2f} of {measured.random_gap.n} random orders, "
        f"p {measured.p_value:.3f}, perturbation {measured.perturbation})"
    )
