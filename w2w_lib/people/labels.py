"""Labels of identities, from a CSV or Parquet file."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd


def _read_labels(labels: str | Path | pd.DataFrame, ids: Sequence[str]) -> pd.DataFrame:
    """Labels of exactly `ids`, in their order, indexed by the table's first column (or its "id" column)."""
    if isinstance(labels, pd.DataFrame):
        table, name = labels.copy(), "the labels table"
    else:
        path = Path(labels)
        name = f"labels file {path}"
        if not path.is_file():
            raise ValueError(f"No {name}: expected a CSV or Parquet file keyed by folder name; check the path")
        if path.suffix.lower() not in (".csv", ".parquet"):
            raise ValueError(f"Unknown type of {name}: expected .csv or .parquet; convert it")
        try:
            table = _read_table(path)
        except (ValueError, OSError) as error:  # parser errors of pandas and pyarrow are ValueErrors
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"Cannot read {name}: expected a table of labels ({reason}); write it again") from error
    table.index = table.index.astype(str)
    twice = sorted(set(table.index[table.index.duplicated()]))
    if twice:
        raise ValueError(f"{name} has several rows for: {_some(twice)}; expected one row per folder, remove the others")
    missing = [id for id in ids if id not in table.index]
    if missing:
        raise ValueError(
            f"{name} has no row for: {_some(missing)}; expected one row per folder name in its first column, add them"
        )
    return table.loc[list(ids)].apply(_as_truth)


def _as_truth(column: pd.Series) -> pd.Series:
    """A label of 0 and 1, or of -1 and 1 as in CelebA, as False and True; any other column as it is."""
    values = set(column)
    return column > 0 if values <= {0, 1} or values <= {-1, 1} else column


def _read_table(path: Path) -> pd.DataFrame:
    if path.suffix.lower() == ".csv":
        first = pd.read_csv(path, nrows=0).columns
        key = "id" if "id" in first else first[0]
        return pd.read_csv(path, dtype={key: str}).set_index(key)
    table = pd.read_parquet(path)
    if isinstance(table.index, pd.RangeIndex):
        table = table.set_index("id" if "id" in table.columns else table.columns[0])
    return table


def _check_known(id: str, ids: Sequence[str], where: str) -> None:
    if id not in ids:
        raise ValueError(f"Unknown identity {id!r} in {where}: expected one of {_some(ids)}")


def _some(names: Iterable[str], limit: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
