"""`purvey serve`: run the server in the foreground."""

import gc
from pathlib import Path
from typing import Annotated, Literal

import typer


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on [8000].")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of everything stored [purvey-data].")
    ] = None,
    model_root: Annotated[
        list[Path] | None,
        typer.Option(help="Folder whose model folders may be registered; repeatable."),
    ] = None,
    module_path: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of your own nn.Module files; repeatable."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings file [purvey.toml where there is one].")
    ] = None,
    log_format: Annotated[
        Literal["json", "console"] | None, typer.Option(help="How log lines look.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="Least severe level logged.")] = None,
) -> None:
    """Run the server until it is told to stop (Ctrl-C or SIGTERM drains first).

    Settings come from defaults, then the settings file, then `PURVEY_*`, then these flags.
    At the first start an administrator key is printed once.
    """
    gc.disable()  # all that a start makes stays; on again once the server listens
    from purvey.app.serving import serve as run_server
    from purvey.settings import load_settings

    flags = {
        "host": host,
        "port": port,
        "data_dir": data_dir,
        "model_roots": tuple(model_root) if model_root else None,
        "module_roots": tuple(module_path) if module_path else None,
        "log_format": log_format,
        "log_level": log_level,
    }
    run_server(load_settings(flags=flags, toml=config))
