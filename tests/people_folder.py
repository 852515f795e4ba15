"""A folder of people with a table of labels, as users have them."""

import warnings

import pandas as pd
import pytest
from PIL import Image

from w2w_lib.people.folders import FolderSource

RED, WHITE = (200, 30, 30), (255, 255, 255)


@pytest.fixture
def folder(tmp_path):
    """Ann and Bob, two pictures each, of different sizes."""
    for blue, name in enumerate(("ann", "bob")):
        (tmp_path / name).mkdir()
        for number, size in enumerate([(40, 32), (48, 64)]):
            Image.new("RGB", size, (200, 10 * number, blue)).save(tmp_path / name / f"{number}.png")
    return tmp_path


@pytest.fixture
def table(folder):
    """Write a table of labels; open the folder with it."""

    def write(content: str | bytes, name: str = "labels.csv") -> pd.DataFrame:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return FolderSource(folder, folder / name).labels

    return write


def refused(path, labels=None, size=None) -> str:
    """What is said, in one line."""
    with pytest.raises((ValueError, FileNotFoundError)) as error, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = FolderSource(path, labels, size)
        for name in source.ids:
            source.images(name)
    assert "\n" not in str(error.value) and "expected" in str(error.value)
    return str(error.value)
