"""What a user's files are, in a few lines of text that change when they do."""

from pathlib import Path

from w2w_lib.inputs import a_path

DEPTH = 2  # a source is a folder of folders of pictures: nothing deeper is read


def list_files(*paths: str | Path) -> str:
    """A line for every file of a source or of labels: name, bytes and time of change in nanoseconds.

    Links are followed, and named where they lead nowhere; a missing path is a line too. Nothing is opened, and folders
    are entered no deeper than a ``FolderSource`` reads, so that a link to a folder above cannot lead round.
    """
    return "".join(
        f"{line}\n" for path in paths for line in _lines(str(path), a_path(path, "pictures or labels"), DEPTH)
    )


def _lines(name: str, path: Path, depth: int) -> list[str]:
    try:
        entries = sorted(path.iterdir()) if path.is_dir() and depth else []
        found = path.stat()
    except OSError as error:
        return [f"{name!r} {type(error).__name__}"]
    if path.is_dir():
        lines = (_lines(f"{name}/{entry.name}", entry, depth - 1) for entry in entries)
        return [f"{name!r} folder", *(line for own in lines for line in own)]
    return [f"{name!r} {found.st_size} {found.st_mtime_ns}"]
