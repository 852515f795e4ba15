"""The `w2w` command: what make and DVC call."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from w2w_lib.workbook import environment, paths, profiles, publishing, runner

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Run, publish and check the workbook.")
Profile = Annotated[str, typer.Option(help="A profile of params.yaml.")]


@app.command()
def strip() -> None:
    """Bring the listings of the notebooks' code up to date, for DVC to compare."""
    for listing in runner.strip():
        typer.echo(f"code changed: {listing.stem}")


@app.command()
def enrol(profile: str, base: Annotated[str, typer.Option(help="Folder or hub id of its base model.")] = "") -> None:
    """Make a profile's stages part of the pipeline, on a base model."""
    profiles.enrol(profile, base or None)


@app.command()
def run(notebook: Path, profile: Profile = "pocket") -> None:
    """Execute one notebook in a profile."""
    if not notebook.is_file():
        known = ", ".join(paths.shown(path) for path in runner.notebooks())
        raise FileNotFoundError(f"no notebook {notebook}: there are {known}")
    try:
        typer.echo(runner.run(notebook.resolve(), profile))
    except KeyboardInterrupt:
        typer.echo("interrupted: what is finished is kept, the same command goes on from there", err=True)
        raise typer.Exit(130) from None


@app.command()
def publish(profile: Profile = "pocket") -> None:
    """Put the executed notebooks' outputs into notebooks/."""
    for path, size in publishing.publish(profile):
        note = "  (large: use fewer or smaller images)" if size > publishing.LARGE else ""
        typer.echo(f"{paths.shown(path)}  {size / 1e6:.2f} MB{note}")


@app.command()
def check(profile: Profile = "pocket") -> None:
    """Prove that the outputs in notebooks/ come from the present sources."""
    problems = publishing.check(profile)
    if problems:
        raise ValueError("the published outputs are not current:\n  " + "\n  ".join(problems))


@app.command(name="environment")
def environment_() -> None:
    """Print environment.yml, with the versions of uv.lock."""
    typer.echo(environment.render(), nl=False)


def main() -> None:
    """The entry point: an error that is the reader's to mend is one line, not a traceback."""
    try:
        app()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
