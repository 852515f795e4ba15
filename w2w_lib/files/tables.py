"""The door of every Parquet file: a table that can be read to its end."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from w2w_lib.files.regular import regular_file


def read_parquet(path: str | Path, expected: str, remedy: str) -> pd.DataFrame:
    """The table of a Parquet file, of this file alone; ValueError for a damaged one, FileNotFoundError for none."""
    path = regular_file(path, expected, remedy)
    try:
        table = pq.read_table(path, partitioning=None)  # a folder named like ``split=train`` is no column of the table
        table.validate(full=True)  # also that its texts are UTF-8
        return table.to_pandas()
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: is no whole Parquet file ({reason}); expected {expected}; {remedy}") from None
