"""Settings: every section is checked, by name, in one line."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from own_settings import SHIPPED, WITH_PEOPLE, local, set_locally
from ruamel.yaml import YAML

from w2w_lib.models.sampling import Sampling
from w2w_lib.space.inversion import InversionRecipe
from w2w_lib.training.recipe import FleetRecipe
from w2w_lib.workbook import paths, settings
from w2w_lib.workbook.sections import WITH_PEOPLE as WITH_STAGES


def test_shipped_profiles_are_valid_and_have_the_librarys_types():
    assert settings.check() == []
    for name in SHIPPED:
        assert tuple(type(settings.load(name)).model_fields) == paths.STAGES
    assert [name for name in SHIPPED if settings.load(name).has("people")] == list(WITH_PEOPLE)
    for name in WITH_PEOPLE:
        profile = settings.load(name)
        assert isinstance(profile.finetune.recipe, FleetRecipe)
        assert isinstance(profile.domains.photo_recipe, InversionRecipe)
        assert isinstance(profile.edit.sampling, Sampling)


def test_the_readmes_settings_for_own_people_are_valid(monkeypatch, tmp_path):
    readme = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(pocket:\n.*?)```", readme, re.DOTALL)
    monkeypatch.setattr(paths, "LOCAL", tmp_path / "local.yaml")
    paths.LOCAL.write_text(example, encoding="utf-8")
    assert settings.check() == []
    assert settings.load("pocket").people.sets.heldout == 20


def test_settings_are_those_of_the_file():
    written = YAML(typ="safe").load(paths.PARAMS)["pocket"]
    pocket = settings.load("pocket")
    assert pocket.finetune.recipe.learning_rate == written["finetune"]["recipe"]["learning_rate"] == 0.003125
    assert pocket.space.counts == written["space"]["counts"]
    assert pocket.people.sets.train == written["people"]["sets"]["train"]
    assert (
        pocket.base.training.evaluate.thresholds.codec == written["base"]["training"]["evaluate"]["thresholds"]["codec"]
    )
    assert pocket.edit.compose == written["edit"]["compose"]


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        settings.load("smoke").space.leading = 3


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("finetune.rannk", 1, "no setting 'finetune.rannk', did you mean 'rank'?"),
        ("finetune.recipe.step", 1, "no setting 'finetune.recipe.step', did you mean 'steps'?"),
        ("finetune.evaluate.sampling.guidence", 1, "did you mean 'guidance'?"),
        ("base.training.recipe.channel", [1], "did you mean 'channels'?"),
        ("fine_tune", {}, "no setting 'fine_tune', did you mean 'finetune'?"),
        ("people.sets.train", 0, "people.sets.train: .* found 0"),
        ("people.sets.train", True, "people.sets.train: .*integer"),
        ("people.sets.train", "24", "people.sets.train: .*integer"),
        ("people.sets.train", 24.5, "people.sets.train: .*integer"),
        ("people.sets.train", None, "people.sets.train: .*integer"),
        ("people.sets.train", 10**30, "people.sets.train: "),
        ("finetune.workers", 0, "finetune.workers: "),
        ("finetune.targets", "papers", "finetune.targets: .*'paper', 'release' or 'attention'"),
        ("finetune.alpha", math.nan, "finetune.alpha: .*finite number"),
        ("finetune.alpha", math.inf, "finetune.alpha: .*finite number"),
        ("finetune.recipe.steps", 0, "steps"),
        ("finetune.recipe.timesteps", [0, 1001], "finetune.recipe.*1000"),
        ("finetune.evaluate", 3, "finetune.evaluate: "),
        ("finetune.evaluate.watched_at", [3, 7], "watched_at is 7, expected at most finetune.recipe.steps, 6"),
        ("finetune.evaluate.people", 7, "finetune.evaluate.people is 7, expected at most people.sets.heldout, 6"),
        ("finetune.evaluate.sweep_people", 5, "sweep_people is 5, expected at most people.sets.val, 4"),
        ("finetune.evaluate.sweep", {"other": {"views": 5}}, "sweep.other.views is 5, expected at most people.sets.v"),
        ("finetune.evaluate.sweep", {"other": {"rank": 0}}, "finetune.evaluate.sweep.other: .*rank"),
        ("finetune.evaluate.again", {"val": {"seed": 1}}, "'val' cannot be a folder's name"),
        ("finetune.evaluate.prompts", [], "finetune.evaluate.prompts: "),
        ("finetune.evaluate.prompts", ["sks person", " "], "finetune.evaluate.prompts.1: .*not empty"),
        ("finetune.evaluate.prompts", ["a person"], "'a person' does not name the person; expected the word 'sks'"),
        ("finetune.evaluate.prompts", ["asks person"], "does not name the person"),
        ("finetune.evaluate.sweep", {"other": {"stepz": 1}}, "finetune.evaluate.sweep.other: .*stepz"),
        ("finetune.evaluate.sweep", {"other": {"steps": 0}}, "finetune.evaluate.sweep.other: .*steps"),
        ("finetune.evaluate.sweep", {"other": {"steps": True}}, "finetune.evaluate.sweep.other: .*steps"),
        ("finetune.evaluate.again", {"other": {"targets": ""}}, "finetune.evaluate.again.other: .*targets"),
        ("finetune.recipe.instance_batch", 10**9, "finetune.recipe.instance_batch is 1000000000, expected at most"),
        ("edit.strengths", [101.0], "edit.strengths.0: .*100"),
        ("finetune.evaluate.sweep", {"as set": {"steps": 1}}, "sweep: expected a first entry `as set: {}`"),
        ("finetune.evaluate.min_auc", 1.1, "finetune.evaluate.min_auc: .*less than or equal to 1"),
        ("space.counts", [2, 24], "space.counts is 24, expected at most people.sets.train - 1, 23"),
        ("invert.components", 24, "invert.components is 24, expected at most people.sets.train - 1, 23"),
        ("domains.components", 9, "domains.components is 9, expected at most space.counts, 8"),
        ("space.leading", 9, "space.leading is 9, expected at most space.counts, 8"),
        ("space.val", 5, "space.val is 5, expected at most people.sets.val, 4"),
        ("space.gallery", 7, "space.gallery is 7, expected at most people.sets.heldout, 6"),
        ("space.gallery", 3, "space.heldout is 4, expected at most space.gallery, 3"),
        ("edit.components", 9, "edit.components is 9, expected at most space.counts, 8"),
        ("space.sampling.steps", 1001, "space.sampling.steps.*1000"),
        ("edit.attributes", ["Male", "Young", "Chuby"], "no label 'Chuby', did you mean 'Chubby'?"),
        ("edit.attributes", ["Male", "Male", "Young"], "edit.attributes: expected each value once"),
        ("edit.counterfactual", "Yuong", "edit.counterfactual: 'Yuong' is not among .* did you mean 'Young'?"),
        ("edit.compose", {"Bald": 1.0}, "edit.compose: 'Bald' is not among edit.attributes"),
        ("edit.people", 7, "edit.people is 7, expected at most people.sets.heldout, 6"),
        ("edit.inject_below", [1001], "edit.inject_below is 1001, expected at most"),
        ("edit.strengths", [0.0, math.inf], "edit.strengths.1: .*finite"),
        ("invert.edits", ["Young", "Bald"], "invert.edits: 'Bald' is not among edit.attributes"),
        ("scale.sizes", [24, 12], "scale.sizes: .*rising numbers"),
        ("scale.inverted.sizes", [13, 18, 24], "scale.inverted.sizes: 13 is not among scale.sizes"),
        ("people.sets.train", 12, "scale.sizes: .12, 18, 24., of 12 people .people.sets.train.; expected three"),
        ("scale.pairs", [["Young", "Mael"]], "scale.pairs: rendered people have no label 'Mael', did you mean 'Male'?"),
        ("scale.alternatives", {"a": {"rank": 0}}, "scale.alternatives.a: .*rank"),
        ("scale.alternatives", {"a": {"step": 2}}, "did you mean 'steps'?"),
        ("scale.views", 3, "scale.views is 3, expected at most people.sets.unseen, 2"),
        ("invert.unseen", 3, "invert.unseen is 3, expected at most people.sets.unseen, 2"),
        ("invert.given", 5, "invert.given is 5, expected at most people.sets.views, 4"),
        ("invert.val", 5, "invert.val is 5, expected at most people.sets.val, 4"),
        ("invert.seeds", [0, 0], "invert.seeds: expected each value once"),
        ("domains.domains", ["grey"], "domains.domains.0: Input should be 'line drawing'"),
        ("domains.attribute", "Glasses", "domains.attribute: rendered people have no label 'Glasses'"),
        ("invert.recipe.stepz", 4, "no setting 'invert.recipe.stepz', did you mean 'steps'?"),
        ("base.training.out", "../elsewhere", "base.training.out: expected a path in the repository's data or outputs"),
        ("base.training.out", "/tmp/elsewhere", "base.training.out: expected a path in the repository's"),
        ("base.training.out", "outputs", "base.training.out: expected a path in the repository's"),
        ("base.training.work", "w2w_lib/models", "base.training.work: expected a path in the repository's"),
        ("base.model", "", "base.model: .*not empty"),
        ("base.model", "~nosuchuser/x", "base.model: .*there is no such user's home"),
        ("people.sets.source", "~nosuchuser/x", "people.sets: .*there is no such user's home"),
        ("base.training.recipe.channels", [100], "channels.*multiple of 16"),
        ("finetune.recipe.seed", 2**64, "finetune.recipe.seed: .*less than or equal to 4294967295"),
        ("finetune.evaluate.timed_sizes", [1, 25], "timed_sizes is 25, expected at most people.sets.train, 24"),
        ("finetune.evaluate.again", {"train": {"seed": 1}}, "'train' cannot be a folder's name"),
        ("finetune.evaluate.again", {"../x": {"seed": 1}}, "'../x' cannot be a folder's name"),
        ("finetune.evaluate.again", {"a/b": {"seed": 1}}, "'a/b' cannot be a folder's name"),
        ("finetune.evaluate.again", {"n" * 300: {"seed": 1}}, "cannot be a folder's name"),
        ("base.training.evaluate.thresholds.faces", -0.1, "thresholds.faces: "),
        ("release.labels", ["Male", "Young", "Smilling"], "CelebA has no label 'Smilling', did you mean 'Smiling'?"),
        ("release.labels", ["Male", "Young"], "release.labels: .*at least 3"),
        ("release.components", 21, "release.components is 21, expected at most release.synthetic.known, 20"),
        (
            "release.synthetic.known",
            41,
            "release.synthetic.known is 41, expected at most release.synthetic.columns, 40",
        ),
        ("release.synthetic.inverted", 601, "inverted is 601, expected at most release.synthetic.models, 600"),
        ("release.synthetic.colums", 1, "no setting 'release.synthetic.colums', did you mean 'columns'?"),
        ("release.mask", "mask.png", "release: mask without a photo"),
        ("release.photo", "no/such.png", "release.photo: no file 'no/such.png'; expected a picture"),
        ("release.prompts", ["a person"], "release.prompts: 'a person' does not name the person"),
        ("release.inject_below", [1001], "release.inject_below is 1001, expected at most the timesteps"),
        ("release.recipe.steps", 10**9, "release.recipe.steps is 1000000000, expected at most"),
        ("people.sets.labels", "labels.csv", "people.sets: labels without a source"),
        ("people.sets.source", "", "people.sets.source: expected a path"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(elsewhere, place, value, message):
    set_locally("smoke", place, value)
    with pytest.raises(ValueError, match=message) as refused:
        settings.load("smoke")
    assert "\n" not in str(refused.value) and "profile smoke: " in str(refused.value)
    assert str(refused.value).startswith(settings.check()[0])


def test_a_wrong_setting_of_one_profile_leaves_the_others_as_they_are(elsewhere):
    before = settings.load("pocket")
    set_locally("smoke", "space.leading", 0)
    assert settings.load("pocket") == before
    assert [line for line in settings.check() if "profile smoke: " not in line] == []


def test_check_names_every_problem_of_every_profile(elsewhere):
    local("smoke: {space: {leading: 0}, edit: {seed: -1}}\npocket: {space: {counts: [1000]}, invert: {people: 61}}\n")
    lines = settings.check()
    found = ["smoke: space.leading", "smoke: edit.seed", "pocket: space.counts", "pocket: invert.people"]
    assert all(sum(name in line for line in lines) == 1 for name in found) and len(lines) == len(found)
    with pytest.raises(ValueError, match=r"\(and 1 more: `w2w check-settings` lists them\)"):
        settings.load("pocket")


def test_a_profile_of_ones_own_has_to_be_whole(elsewhere):
    local("mine: {people: {sets: {train: 3}}}")
    assert any("profile mine: base is missing" in line for line in settings.check())
    whole = YAML(typ="safe").load(paths.PARAMS)["smoke"]
    local(json.dumps({"mine": whole}))
    assert settings.load("mine") == settings.load("smoke")


def test_a_profile_has_all_stages_with_people_or_none(elsewhere):
    whole = YAML(typ="safe").load(paths.PARAMS)["smoke"]
    expected = {
        (
            "base",
            "people",
            "space",
        ): "finetune, edit, invert, judge, scale, domains: missing beside people, space",
        ("base",): "mine: no stages: expected the sections people to domains, or release, or both",
    }
    for sections, message in expected.items():
        local(json.dumps({"mine": {name: whole[name] for name in sections}}))
        (found,) = settings.check()
        assert message in found and "\n" not in found
    for without in ("release", None):
        local(json.dumps({"mine": {name: value for name, value in whole.items() if name != without}}))
        assert settings.check() == [] and settings.load("mine").has("release") == (without is None)


def test_a_section_that_a_profile_lacks_is_refused_by_name(elsewhere):
    profile = settings.load("sd15")
    for name in WITH_STAGES:
        with pytest.raises(ValueError, match=f"this profile has no section {name}: it has base, release$"):
            getattr(profile, name)
    with pytest.raises(ValueError, match="this profile has no section release"):
        _ = settings.load("sd15-own").release


def test_own_people_may_be_named_later(elsewhere):
    assert settings.load("sd15-own").people.own and settings.load("sd15-own").people.sets.source is None
    set_locally("sd15-own", "people.sets.source", "photos")
    assert settings.check() == [] and settings.load("sd15-own").people.sets.source == elsewhere / "photos"


def test_what_is_said_locally_replaces_single_settings(elsewhere):
    before = settings.load("smoke")
    local("smoke:\n  space: {counts: [8]}\n  finetune: {recipe: {steps: 6, learning_rate: 1e-4}}\n")
    after = settings.load("smoke")
    assert after.space.counts == [8] and after.space.leading == before.space.leading
    assert after.finetune.recipe.learning_rate == 0.0001  # in every spelling a number
    assert after.finetune.recipe.instance_batch == before.finetune.recipe.instance_batch
    assert after.edit == before.edit and settings.load("pocket") == settings.load("pocket")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"smoke: 1\nsmoke: 2\n", "line 2: found duplicate key"),
        (b"smoke:\n  space: {seed: 0}\n  space: {seed: 1}\n", "line 3: found duplicate key"),
        (b"smoke:\n\tspace: 1\n", "line 2: found character"),
        (b"smoke: \xff\n", "byte 7 is not UTF-8"),
        (b"- smoke\n", "holds a list, not a mapping"),
        (b"smoke\n", "holds a str, not a mapping"),
        (b"a: &a [x]\nsmoke: *a\n", r"line 2 refers to an anchor \(\*a\)"),
        (b"smoke: {a: b: c}\n", "line 1: "),
        (b"smoke: \x01\n", "is no YAML"),
        (b"smoke: !!python/object:os.system x\n", "could not determine a constructor"),
        (b"smoke: 1\n---\npocket: 2\n", "another document"),
        (b"[" * 3000, "nested more than 20 deep"),
        (b"#" * 1_000_001, "has more than 1,000,000 bytes"),
        (b"Smoke: {}\n", "no name of a profile: 'Smoke'"),
        (b"'a; touch x': {}\n", "no name of a profile"),
        (b"--help: {}\n", "no name of a profile"),
        (b"item: {}\n", "no name of a profile: 'item'"),
        (b"smoke: {space: {seed: 2020-13-45}}\n", "a value that cannot be read"),
        (b"smoke: {space: {seed: !!int abc}}\n", "a value that cannot be read"),
        (b"smoke: {finetune: {compiled: !!bool maybe}}\n", "a value that cannot be read"),
        (b"2024: {}\n", "2024: no text, put it in quotes"),
        (b"smoke: {finetune: {evaluate: {again: {1: {}, '1': {steps: 3}}}}}\n", "1: no text, put it in quotes"),
        (b"smoke: null\n", "profile smoke: "),
        (b"smoke: [1]\n", "profile smoke: "),
    ],
)
def test_a_file_that_holds_no_settings_is_refused(elsewhere, content, message):
    paths.LOCAL.write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        settings.load("smoke")
    assert "\n" not in str(refused.value)
    assert settings.check()[0] == str(refused.value)


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "empty", "link to nowhere"])
def test_what_is_no_file_is_refused(elsewhere, kind):
    paths.PARAMS.unlink()
    make = {
        "folder": Path.mkdir,
        "pipe": os.mkfifo,
        "empty": Path.touch,
        "link to nowhere": lambda p: p.symlink_to("no"),
    }
    if kind in make:
        make[kind](paths.PARAMS)
    with pytest.raises((ValueError, FileNotFoundError), match=r"params\.yaml: .*expected settings.*git restore"):
        settings.load("smoke")
    assert len(settings.check()) == 1


def test_a_profile_may_extend_another(elsewhere):
    local("more: {extends: smoke, people: {sets: {train: 30}}, release: null}")
    more, smoke = settings.load("more"), settings.load("smoke")
    assert more.people.sets.train == 30 and not more.has("release")
    same = {"people": smoke.people, "release": smoke.release}
    assert more.model_copy(update=same) == smoke
    local("smoke: {people: {sets: {train: 26}}}\nmore: {extends: smoke}")
    assert settings.load("more").people.sets.train == 26
    local("pocket: {people: {sets: {val: 51}}}")  # choices for the default's people leave the larger profile as it is
    assert settings.load("pocket").people.sets.val == 51 and settings.load("full").people.sets.val == 50


@pytest.mark.parametrize(("under", "said"), [("pockt", "did you mean 'pocket'"), ("more", ""), (3, ""), ([], "")])
def test_a_profile_extends_one_that_extends_no_other(elsewhere, under, said):
    local(json.dumps({"more": {"extends": under}}))
    with pytest.raises(ValueError, match=f"profile more: extends: .* is no profile that extends no other.*{said}"):
        settings.load("smoke")
    assert len(settings.check()) == 1


def test_unknown_profiles_are_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="unknown profile 'pockt', did you mean 'pocket'"):
        settings.load("pockt")
    with pytest.raises(ValueError, match="unknown profile 'huge'; expected one of smoke, pocket, full, sd15, sd15-own"):
        settings.load("huge")
    for name in ("profiles", "../pocket", "$(touch x)", "", "Pocket", "a b"):
        with pytest.raises(ValueError, match="no name of a profile"):
            settings.load(name)


def test_what_is_in_the_place_of_outputs_is_named(elsewhere):
    paths.OUTPUTS.write_text("")
    with pytest.raises(ValueError, match="outputs/smoke: cannot be made"):
        paths.outputs("smoke", "x")


@pytest.mark.parametrize("parts", [("..", "x"), ("/etc/passwd",), ("a", "../../../x")])
def test_outputs_stay_in_their_folder(elsewhere, parts):
    with pytest.raises(ValueError, match="expected a path inside outputs/smoke"):
        paths.outputs("smoke", *parts)
    with pytest.raises(ValueError, match="no name of a profile"):
        paths.outputs("../smoke", "x")
    with pytest.raises(ValueError, match="stage 'spaces': expected one of base, people"):
        paths.metrics("smoke", "spaces")


def test_people_have_the_size_that_the_base_paints(elsewhere, pipeline_folder):
    configs = {
        "unet/config.json": {"sample_size": 16},
        "vae/config.json": {"block_out_channels": [1, 1, 1, 1]},
        "scheduler/scheduler_config.json": {"num_train_timesteps": 500},
    }
    for name, values in configs.items():
        (pipeline_folder / name).parent.mkdir()
        (pipeline_folder / name).write_text(json.dumps(values))
    set_locally("pocket", "base.model", str(pipeline_folder))
    assert not any("sets.size" in line for line in settings.check())  # 16 * 2 ** 3 = 128
    assert any("edit.inject_below is 1000, expected at most the timesteps" in line for line in settings.check())
    (pipeline_folder / "unet/config.json").write_text('{"sample_size": 8}')
    assert any("people.sets.size is 128, expected 64" in line for line in settings.check())
    for broken in ("{", "[]", '{"sample_size": null}'):
        (pipeline_folder / "unet/config.json").write_text(broken)
        assert sum("base.model: " in line and "\n" not in line for line in settings.check()) == 1


def test_own_people_bring_their_labels_and_views(elsewhere):
    local("smoke: {people: {sets: {source: photos, views: 1}}, edit: {attributes: [Moustached]}}")
    assert settings.load("smoke").people.sets.source == elsewhere / "photos"  # wherever the process runs
    assert not settings.load("pocket").people.sets.source


def test_the_readmes_settings_of_own_people_fit(elsewhere):
    readme = (paths.PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    local(readme.split("## Your own people")[1].split("```yaml\n")[1].split("```")[0])
    assert settings.check() == []
    assert settings.load("pocket").people.sets.source == elsewhere / "my/people"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("UV", "uv")), reason="make needs uv")
def test_make_refuses_an_unknown_profile_in_one_line():
    done = subprocess.run(
        ["make", "reproduce", "PROFILE=huge"], cwd=paths.ROOT, capture_output=True, text=True, timeout=120
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode != 0 and len(errors) == 1 and "Traceback" not in done.stderr
    assert errors[0].startswith("error: unknown profile 'huge'")


def test_a_run_keeps_the_settings_that_it_began_with(elsewhere, tmp_path):
    """Here and in the processes that it starts, whatever is written meanwhile."""
    began = settings.load("smoke").space
    with settings.kept(tmp_path / "kept.json"):
        local("smoke: {space: {seed: 99}}")
        assert settings.load("smoke").space == began
        code = "from w2w_lib.workbook import settings; print(settings.written()['smoke']['space']['seed'])"
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert int(told) == began.seed != 99
    assert settings.load("smoke").space.seed == 99 and not (tmp_path / "kept.json").exists()


def test_settings_are_checked_without_the_libraries_that_train():
    code = "import sys; from w2w_lib.workbook import settings; settings.load('smoke'); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "diffusers", "transformers"} & set(run.stdout.split())
