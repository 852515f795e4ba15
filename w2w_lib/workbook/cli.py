"""The `w2w` command: what make and DVC call."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from w2w_lib.workbook import paths

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Run, publish and check the workbook.")
Profile = Annotated[str, typer.Option(help="A profile of params.yaml.")]
MadeProfile = Annotated[str, typer.Option(envvar="PROFILE", help="A profile of params.yaml.")]  # make exports it


@app.command()
def prepare() -> None:
    """Bring the listings of the notebooks' code, of people's files and of settings up to date, for DVC to compare."""
    from w2w_lib.workbook import pipeline

    for changed in pipeline.prepare():
        typer.echo(f"changed: {changed.stem}")


@app.command()
def enrol(
    profile: str,
    base: Annotated[str, typer.Option(help="Folder or hub id of its base model.")] = "",
    release: Annotated[str, typer.Option(help="Folder or hub id of the authors' release.")] = "",
) -> None:
    """Make a profile's stages part of the pipeline, on a base model, with the authors' release where it opens that."""
    from w2w_lib.workbook import pipeline, profiles

    profiles.enrol(profile, base or None, release or None)
    pipeline.prepare()


@app.command()
def check_settings() -> None:
    """Say what does not fit in params.yaml and local.yaml."""
    from w2w_lib.workbook import settings

    if problems := settings.check():
        raise ValueError("these settings do not fit:\n  " + "\n  ".join(problems))


@app.command()
def reproduce(
    profile: MadeProfile = "pocket",
    base: Annotated[str, typer.Option(envvar="BASE", help="Folder or hub id of its base model.")] = "",
    release: Annotated[str, typer.Option(envvar="RELEASE", help="Folder or hub id of the authors' release.")] = "",
) -> None:
    """Run every notebook of a profile whose inputs changed."""
    from w2w_lib.workbook import pipeline

    with _interruptible():
        status = pipeline.reproduce(profile, base or None, release or None)
    if status:
        raise typer.Exit(status if status > 0 else 1)


@app.command()
def run(notebook: Path, profile: Profile = "pocket") -> None:
    """Execute one notebook in a profile."""
    from w2w_lib.workbook import runner

    with _interruptible():
        typer.echo(runner.run(notebook, profile))


@app.command()
def base(
    profile: MadeProfile = "pocket",
    anew: Annotated[str, typer.Option(envvar="ANEW", help="1: train another one first, and replace it.")] = "",
) -> None:
    """Measure the base model again."""
    from w2w_lib.workbook import pipeline

    with _interruptible():
        typer.echo(pipeline.renew_base(profile) if pipeline.answer(anew) else pipeline.measure_base(profile))


@app.command()
def publish(profile: Profile = "pocket") -> None:
    """Put the executed notebooks' outputs into notebooks/, and their numbers into published/."""
    from w2w_lib.workbook import publishing

    for path, size in publishing.publish(profile):
        note = "  (large: use fewer or smaller images)" if size > publishing.LARGE else ""
        typer.echo(f"{paths.shown(path)}  {size / 1e6:.2f} MB{note}")


@app.command()
def keep(
    names: Annotated[list[str], typer.Argument(help="Notebooks by file stem, such as 07_scale.")],
    profile: Profile,
) -> None:
    """Keep a long run of another profile, with its numbers, in published/PROFILE; notebooks/ stays as it is."""
    from w2w_lib.workbook import publishing

    for path, size in publishing.keep_beside(profile, names):
        typer.echo(f"{paths.shown(path)}  {size / 1e6:.2f} MB")


@app.command()
def withdraw(
    names: Annotated[list[str], typer.Argument(help="Notebooks by file stem, such as 06_judge.")],
    profile: Profile = "pocket",
) -> None:
    """Take the outputs and numbers of notebooks off the page, until they are published again."""
    from w2w_lib.workbook import publishing

    publishing.withdraw(profile, names)


@app.command()
def check(profile: Profile = "pocket") -> None:
    """Prove that the outputs in notebooks/ come from the present sources."""
    from w2w_lib.workbook import page

    if problems := page.check(profile):
        raise ValueError("the published outputs are not current:\n  " + "\n  ".join(problems))


@app.command()
def import_release(
    folder: Annotated[str, typer.Argument(help="The authors' release: its folder, or its name on the hub.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    components: Annotated[int, typer.Option(help="How many of the principal components.")] = 1000,
    base: Annotated[str, typer.Option(help="Folder or hub id of the base model; none: Stable Diffusion 1.5.")] = "",
    half: Annotated[bool, typer.Option("--half", help="Store components in bf16: half the file, 3 digits.")] = False,
) -> None:
    """Write the authors' released space as files of ours, without running a pickle; non-commercial use only."""
    import torch

    from w2w_lib.release.importing import import_release

    dtype = torch.bfloat16 if half else torch.float32
    space = import_release(folder, out, components, base or None, typer.echo, dtype)
    typer.echo(f"{out}: a space of {len(space.ids)} models and {len(space.components)} components")


@app.command()
def environment() -> None:
    """Print environment.yml, with the versions of uv.lock."""
    from w2w_lib.workbook.environment import render

    typer.echo(render(), nl=False)


def main() -> None:
    """The entry point: an error that the reader can mend is one line, not a traceback."""
    try:
        app()
    except (ValueError, FileNotFoundError, TimeoutError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:  # of this machine: a folder in a file's place, no permission, a full disk
        if error.filename is None:
            raise
        place = error.filename2 or error.filename
        sys.exit(f"error: {place}: {error.strerror}; expected a place to read from and write to, make it one")


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted: what is finished is kept, the same command goes on from there", err=True)
        raise typer.Exit(130) from None
