"""No option is ever evaluated: not by make, not by a shell."""

import os
import shutil
import subprocess
import sys

import pytest

from w2w_lib.workbook import cli, lifetime, paths, pipeline

HIDDEN = [
    "'; touch pwned; '",
    '"; touch pwned; "',
    "; touch pwned #",
    "$(touch pwned)",
    "`touch pwned`",
    "$(shell touch pwned)",
    "${shell touch pwned}",
    "$$(touch pwned)",
    "$(eval $(shell touch pwned))",
    "a\ntouch pwned",
]
OPTIONS = ("PROFILE", "BASE", "RELEASE", "ANEW")
MAKES_OWN = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")  # set by `make test`; a make below another reports its folders
STAND_IN = """#!/bin/sh
[ "$1" = --version ] || printf '%s|%s|%s|%s|%s' "$*" "$PROFILE" "$BASE" "$RELEASE" "$ANEW"
"""


@pytest.fixture
def make(tmp_path):
    """Make, in a folder with our Makefile, and in place of uv a program that says what reaches it."""
    (tmp_path / "bin").mkdir()
    uv = tmp_path / "bin" / "uv"
    uv.write_text(STAND_IN)
    uv.chmod(0o755)
    root = tmp_path / "root"
    (root / ".venv").mkdir(parents=True)
    shutil.copy(paths.ROOT / "Makefile", root)
    for name in ("pyproject.toml", "uv.lock", ".venv/.synced"):
        (root / name).touch()
    kept = {name: value for name, value in os.environ.items() if name not in (*OPTIONS, *MAKES_OWN)}

    def call(*words: str, **environment: str) -> str:
        search = os.pathsep.join([str(uv.parent), os.environ["PATH"]])
        done = subprocess.run(
            ["make", *words], cwd=root, env=kept | environment | {"PATH": search}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert not list(tmp_path.rglob("pwned"))
        return done.stdout

    return call


@pytest.mark.parametrize("name", OPTIONS)
def test_make_hands_options_on_word_for_word(make, name):
    for value in HIDDEN:
        options = [value if name == one else "" for one in OPTIONS]
        for target in ("reproduce", "base"):
            expected = "|".join([f"run --no-sync w2w {target}", *options])
            assert make(target, **{name: value}) == expected
            if "\n" not in value:  # make itself refuses a line break on its command line
                assert make(target, f"{name}={value}") == expected


def test_without_options_there_are_none(make):
    assert make("reproduce") == "run --no-sync w2w reproduce||||"


@pytest.fixture
def w2w(monkeypatch, capsys, tmp_path):
    """The command, in this process; what it says of an error."""
    monkeypatch.chdir(tmp_path)
    for name in OPTIONS:
        monkeypatch.delenv(name, raising=False)

    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["w2w", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert not list(tmp_path.iterdir()) and not (paths.ROOT / "pwned").exists()
        return str(left.value.code)

    return call


@pytest.mark.parametrize("value", HIDDEN)
def test_commands_refuse_what_is_no_profile_base_or_answer_in_one_line(w2w, monkeypatch, value):
    for words in (("reproduce",), ("base",)):
        monkeypatch.setenv("PROFILE", value)
        assert_refused(w2w(*words), value)
    monkeypatch.delenv("PROFILE")
    monkeypatch.setenv("ANEW", value)
    assert_refused(w2w("base"), value)
    for words in (
        ("run", str(paths.NOTEBOOKS / "03_space.ipynb"), "--profile", value),
        ("enrol", value),
        ("check", "--profile", value),
    ):
        assert_refused(w2w(*words), value)
    if value.isprintable():
        assert_refused(w2w("enrol", "sd15", "--release", value), value)
        assert_refused(w2w("enrol", "sd15", "--release", "a/b", "--base", value), value)


def assert_refused(said: str, value: str) -> None:
    assert said.startswith("error: ") and len(said.splitlines()) == 1, said
    assert repr(value)[1:-1] in said or value in said


def test_a_profile_without_a_name_is_the_default(monkeypatch):
    asked = []
    monkeypatch.setattr(pipeline, "reproduce", lambda *words: asked.append(words) or 0)
    monkeypatch.setattr(sys, "argv", ["w2w", "reproduce"])
    for environment in ({}, {"PROFILE": "", "BASE": ""}, {"PROFILE": "sd15", "BASE": "a", "RELEASE": "b"}):
        for name in ("PROFILE", "BASE", "RELEASE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit):
            cli.main()
    assert asked == [("pocket", None, None), ("pocket", None, None), ("sd15", "a", "b")]


def test_anew_is_yes_or_no():
    assert [pipeline.answer(text) for text in ("", "0", "no", "False")] == [False] * 4
    assert [pipeline.answer(text) for text in ("1", "yes", "TRUE")] == [True] * 3
    for text in ("2", "ja", "maybe", "-1"):
        with pytest.raises(ValueError, match=r"ANEW='.*': expected 1 .* or 0"):
            pipeline.answer(text)


def test_dvc_is_called_without_a_shell(monkeypatch, tmp_path):
    monkeypatch.setenv(lifetime.MARK, "part of this test")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert pipeline._dvc("version; touch pwned") != 0
    assert not (tmp_path / "pwned").exists()
