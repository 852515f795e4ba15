"""Labels of identities, from a CSV or Parquet file."""

import csv
import difflib
import io
import math
import re
import unicodedata
from collections.abc import Collection, Hashable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from w2w_lib.files.regular import regular_file
from w2w_lib.files.tables import read_parquet
from w2w_lib.inputs import a_path, some

DELIMITERS = ",;\t"

_EXPECTED = 'a CSV or Parquet file with folder names in its first column (or "id") and labels of 0 and 1 in the others'
_REMEDY = "write it anew"
_BREAKS = ("Cc", "Zl", "Zp")  # Unicode's categories of control characters and of ends of lines
_TRUTHS = {"true": 1.0, "false": 0.0}


def read_labels(labels: str | Path | pd.DataFrame, ids: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Labels of exactly ``ids``, in their order, and remarks on rows and columns that are not used as labels.

    Names are compared as they are written, as text. A label is 0 or 1, -1 or 1 (as in CelebA), or true or false, for
    everybody; a column without any of these (an age, a note) is kept beside them. ValueError for rows that are missing
    or twice, for a label that is empty or anything else, and where no column is a label.
    """
    if isinstance(labels, pd.DataFrame):
        where, table = "the labels", labels
    else:
        where, table = str(labels), _from_file(a_path(labels, _EXPECTED))
    table = _keyed(table, where)
    twice = list(table.index[table.index.duplicated()].unique())
    if twice:
        raise ValueError(f"{where}: several rows for {some(twice)}; expected one row per folder; remove the others")
    known, named = set(ids), set(table.index)
    if missing := [name for name in ids if name not in named]:
        raise ValueError(f"{where}: no row for {some(missing)}; expected one row per folder; add them")
    used = as_truths(table.loc[list(ids)], where)
    others = [name for name in used if used[name].dtype != bool]
    if len(others) == used.shape[1]:
        raise ValueError(f"{where}: no column of labels; expected {_EXPECTED}; add one, or leave the file out")
    nobody = [name for name in table.index if name not in known]
    remarks = [f"{where}: rows for people without a folder: {some(nobody)}"] if nobody else []
    return used, remarks + ([f"{where}: columns that are no labels: {some(others)}"] if others else [])


def as_truths(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """The table with its labels as False and True and its other columns as they are.

    ValueError for a column of labels with any other value, which names the column, the row and the value.
    """
    return pd.DataFrame({name: _as_truth(table[name], where) for name in table}, table.index)


def known_identity(name: str, names: Collection[str], where: str) -> None:
    """ValueError for an identity that is not among ``names``, with the nearest of them."""
    if not isinstance(name, Hashable) or name not in names:
        close = difflib.get_close_matches(str(name), names, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {some(list(names))}"
        raise ValueError(f"unknown identity {name!r} in {where}; {hint}")


def _as_truth(column: pd.Series, where: str) -> pd.Series:
    if column.dtype == bool:
        return column
    numbers = pd.Series([_number(cell) for cell in column], column.index, dtype=float)
    empty = pd.Series([_is_empty(cell) for cell in column], column.index, dtype=bool)
    is_label = numbers.isin([-1, 0, 1])
    if not is_label.any() and not empty.all():
        return numbers if column.dtype == object and (numbers.notna() | empty).all() else column
    remedy = "correct it, or leave the column out"
    for row in column.index[~is_label]:
        found = "no value" if empty[row] else repr(column[row])
        raise ValueError(f"{where}: column {column.name!r}, row {row!r} has {found}; expected 0 or 1; {remedy}")
    if numbers.eq(0).any() and numbers.eq(-1).any():
        raise ValueError(f"{where}: column {column.name!r} has -1 and 0; expected 0 and 1, or -1 and 1; {remedy}")
    return numbers > 0


def _number(cell: Any) -> float:
    """The number that a cell stands for, NaN if for none."""
    if isinstance(cell, str):
        cell = _TRUTHS.get(cell.strip().lower(), cell)
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _is_empty(cell: Any) -> bool:
    return cell.strip() == "" if isinstance(cell, str) else bool(pd.api.types.is_scalar(cell) and pd.isna(cell))


def _keyed(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """The table by its column "id", by its index if that has names, or by its first column: names as text."""
    columns, by_index = list(table.columns), "id" not in table.columns and not isinstance(table.index, pd.RangeIndex)
    key = None if by_index else columns.index("id") if "id" in columns else 0
    for number, name in enumerate(columns):
        odd = not isinstance(name, str) or not name.strip() or any(unicodedata.category(c) in _BREAKS for c in name)
        if (odd and number != key) or name in columns[:number]:
            what = "no name of one line" if odd else "the name of another column"
            raise ValueError(f"{where}: column {name!r} has {what}; expected names that differ; rename it")
    if len(columns) + by_index < 2 or table.index.nlevels > 1:
        raise ValueError(f"{where}: no columns of labels by name; expected {_EXPECTED}; {_REMEDY}")
    names = table.index if by_index else table.iloc[:, key]
    if unnamed := sum(_is_empty(name) for name in names):
        raise ValueError(f"{where}: {unnamed} rows have no name; expected {_EXPECTED}; name or remove them")
    labels = table if by_index else table.drop(columns=columns[key])
    return labels.set_axis(pd.Index([str(name) for name in names], name="id"))


def _from_file(path: Path) -> pd.DataFrame:
    if path.suffix.lower() == ".parquet":
        return read_parquet(path, _EXPECTED, _REMEDY)
    regular_file(path, _EXPECTED, _REMEDY)
    if path.suffix.lower() not in (".csv", ".tsv"):
        raise ValueError(f"{path}: is of an unknown kind; expected {_EXPECTED}; {_REMEDY}")
    return _read_csv(path)


def _read_csv(path: Path) -> pd.DataFrame:
    """A table of text, cell by cell as it is written."""

    def refuse(what: str) -> ValueError:
        return ValueError(f"{path}: {what}; expected {_EXPECTED}, in UTF-8; {_REMEDY}")

    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise refuse(f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise refuse(f"is not UTF-8 (byte {error.start})") from None
    if "\0" in text:
        raise refuse("is no text")
    first = next((line for line in text.splitlines() if line.strip()), "")
    # the one that the first line has most of outside quotes
    delimiter = max(DELIMITERS, key=re.sub('"[^"]*"', "", first).count)
    reader, rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), []
    try:
        for row in reader:
            if rows and row and len(row) != len(rows[0]):
                raise refuse(f"line {reader.line_num} has {len(row)} cells, not {len(rows[0])}")
            rows += [row] if row else []
    except csv.Error as error:
        raise refuse(f"line {reader.line_num} is damaged ({error})") from None
    if not rows or len(rows[0]) < 2:
        raise refuse("has one column" if rows else "has no rows")
    return pd.DataFrame(rows[1:], columns=[name.strip() for name in rows[0]], dtype=object)
