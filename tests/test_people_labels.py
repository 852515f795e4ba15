"""Tables of labels as users have them."""

import os

import numpy as np
import pandas as pd
import pytest
from people_folder import refused

from w2w_lib.people.folders import FolderSource


@pytest.mark.filterwarnings("ignore::UserWarning")  # tested below
def test_labels_are_truths_in_every_spelling(table):
    labels = table("id,Male,Young,Cap,Hat,age\nbob,1,-1,TRUE,0.0,50\nann,0,1,false,1.0,30\n")
    expected = {"Male": [False, True], "Young": [True, False], "Cap": [False, True], "Hat": [True, False]}
    pd.testing.assert_frame_equal(
        labels, pd.DataFrame(expected | {"age": [30.0, 50.0]}, pd.Index(["ann", "bob"], name="id"))
    )


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_delimiters_and_a_byte_order_mark_are_understood(table, mark):
    text = f'name{mark}Male\r\n"ann"{mark} 1\r\n\r\nbob{mark}0\r\n'
    assert list(table(text.encode("utf-8-sig"))["Male"]) == [True, False]
    text = f'name{mark}"a,b;c,d;e"{mark}Male\nann{mark}1{mark}1\nbob{mark}0{mark}0\n'
    assert list(table(text)["Male"]) == [True, False]


@pytest.mark.filterwarnings("ignore::UserWarning")  # tested below
def test_a_tsv_and_a_parquet_of_any_form_are_read(folder, table):
    assert list(table("name\tMale\nann\t1\nbob\t0\n", "labels.TSV")["Male"]) == [True, False]
    frame = pd.DataFrame({"Male": [True, False], "Young": [0.0, 1.0]}, index=["bob", "ann"])
    by_column = frame.reset_index(names="name")
    as_objects = by_column.astype(object)
    for labels in (frame, by_column, as_objects, frame.astype("boolean"), by_column.astype({"name": "category"})):
        labels.to_parquet(folder / "labels.parquet")
        for given in (folder / "labels.parquet", labels):
            read = FolderSource(folder, given).labels
            assert list(read["Male"]) == [False, True] and list(read["Young"]) == [True, False]
            assert set(read.dtypes) == {np.dtype(bool)} and list(read.index) == ["ann", "bob"]


def test_rows_of_nobody_and_columns_that_are_no_labels_are_said(folder):
    (folder / "labels.csv").write_text("id,Male,age,note\nann,1,30,\neve,0,2,x\nbob,0,50,likes 1 and 0\n")
    with pytest.warns(UserWarning, match="rows for people without a folder: eve"):
        source = FolderSource(folder, folder / "labels.csv")
    assert source.remarks[1].endswith("columns that are no labels: age, note")
    assert list(source.labels["age"]) == [30, 50] and source.labels["Male"].dtype == bool


@pytest.mark.parametrize(
    "content, said",
    [
        ("id,Male\nann,1\n", "no row for bob"),
        ("id,Male\nann,1\nann,0\nbob,1\n", "several rows for ann"),
        ("id,Male\nann,1\nbob,2\n", "column 'Male', row 'bob' has '2'; expected 0 or 1"),
        ("id,Male\nann,1\nbob,\n", "column 'Male', row 'bob' has no value"),
        ("id,Male\nann,1\nbob,NaN\n", "column 'Male', row 'bob' has"),
        ("id,Male\nann,yes\nbob,1\n", "column 'Male', row 'ann' has 'yes'"),
        ("id,Male\nann,0.5\nbob,1\n", "column 'Male', row 'ann' has '0.5'"),
        ("id,Male\nann,inf\nbob,1\n", "column 'Male', row 'ann' has 'inf'"),
        ("id,Male\nann,-1\nbob,0\n", "column 'Male' has -1 and 0"),
        ("id,Male\nann,\nbob,\n", "column 'Male', row 'ann' has no value"),
        ("id,Male\nann,yes\nbob,no\n", "no column of labels"),
        ("id,Male,Male\nann,1,0\nbob,0,1\n", "column 'Male' has the name of another column"),
        ("id,Male, Male\nann,1,0\nbob,0,1\n", "column 'Male' has the name of another column"),
        ("id,id\nann,1\nbob,0\n", "column 'id' has the name of another column"),
        ("id,\nann,1\nbob,0\n", "column '' has no name of one line"),
        ('id,"a\nb"\nann,1\nbob,0\n', "no name of one line"),
        ("id,Male\nann,1\n,0\nbob,0\n", "1 rows have no name"),
        ("id|Male\nann|1\nbob|0\n", "has one column"),
        ("id\nann\nbob\n", "has one column"),
        ("id,Ma\u2028le\nann,1\nbob,0\n", "no name of one line"),
        ("<html>" + "a b " * 50_000, "is damaged"),
        ("id,Male\nann,1,1\nbob,0\n", "line 2 has 3 cells, not 2"),
        ('id,Male\nann,1\nbob,"0\n', "is damaged"),
        ("", "is empty"),
        ("\n\n", "has no rows"),
        ("id,Male\n", "no row for ann, bob"),
        ("id,Mâle\nann,1\nbob,0\n".encode("latin-1"), "is not UTF-8 \\(byte 4\\)"),
        ("id,Male\nann,1\nbob,0\n".encode("utf-16"), "is not UTF-8"),
        ("id,Male\nann,1\nbob,0\n".encode("utf-16-le"), "is no text"),
    ],
)
def test_wrong_tables_are_refused_in_a_line(folder, table, content, said):
    with pytest.raises(ValueError, match=said) as error:
        table(content)
    assert "\n" not in str(error.value) and "expected" in str(error.value)


@pytest.mark.timeout(20)
def test_what_is_no_table_is_refused(folder, table, tmp_path_factory, unchecked):
    away = tmp_path_factory.mktemp("labels")
    for path in (away / "labels.csv", away / "labels.parquet"):
        assert "no such file" in refused(folder, path)
        os.mkfifo(path)
        assert "is no regular file" in refused(folder, path)
        path.unlink()
        path.mkdir()
        assert "is a folder" in refused(folder, path)
    for wrong in (b"no table", b"PAR1PAR1", b"\x80\x04K\x01."):
        with pytest.raises(ValueError, match=r"labels\.parquet: is no whole Parquet file \(.*expected"):
            table(wrong, "labels.parquet")
    for wrong in ({"ann": 1}, pd.Series({"ann": 1, "bob": 0}), b"labels.csv", "labels\0.csv"):
        assert "is no path; expected the path of a CSV or Parquet file" in refused(folder, wrong)
    with pytest.raises(ValueError, match="is of an unknown kind"):
        table("id,Male\n", "labels.xlsx")


def test_wrong_parquets_are_refused(folder):
    names = pd.Index(["ann", "bob"])
    wrong = {
        "has no value": pd.DataFrame({"Male": [True, None]}, names, dtype=object),
        "row 'ann' has ": pd.DataFrame({"Male": [b"x", 1]}, names, dtype=object),
        "1 rows have no name": pd.DataFrame({"id": ["ann", "bob", None], "Male": [1, 0, 1]}),
        "no row for ann, bob": pd.DataFrame({"id": [1, 2], "Male": [1, 0]}),
        "no columns of labels by name": pd.DataFrame({"Male": [1, 0]}, pd.MultiIndex.from_tuples([("a", 1), ("b", 2)])),
        "has no name of one line": pd.DataFrame({"id": ["ann", "bob"], 3: [1, 0]}),
    }
    for said, labels in wrong.items():
        assert said in refused(folder, labels), said
