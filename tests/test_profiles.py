"""Which profiles take part, and what is recorded of their bases."""

import os

import pytest
import torch
from own_settings import SHIPPED, local, set_locally
from ruamel.yaml import YAML

from w2w_lib.workbook import paths, profiles, settings

HUB = "snap-research/weights2weights"


def enrol(base: str | None) -> None:
    profiles.enrol("sd15", base, HUB)


def recorded(base) -> dict:
    return {"base": {"model": str(base)}, "release": {"source": HUB}}


def test_dvc_gets_the_profiles_that_have_a_base(elsewhere, pipeline_folder):
    yaml = YAML(typ="safe")
    local("smoke: {space: {seed: 7}}")
    assert len(profiles.write_pipeline_files()) == 2
    written = yaml.load(paths.PIPELINE / "profiles.yaml")["profiles"]
    assert written == {name: {"base": "data/base/pocket"} for name in ("smoke", "pocket")}
    merged = yaml.load(paths.PIPELINE / "settings.yaml")
    assert merged["smoke"]["space"]["seed"] == 7 and set(merged) == set(SHIPPED)
    assert merged["pocket"] == yaml.load(paths.PARAMS)["pocket"]
    before = (paths.PIPELINE / "settings.yaml").stat().st_mtime_ns
    assert profiles.write_pipeline_files() == []
    assert (paths.PIPELINE / "settings.yaml").stat().st_mtime_ns == before
    set_locally("sd15-own", "people.sets.source", "photos")
    profiles.enrol("sd15-own", str(pipeline_folder))
    profiles.write_pipeline_files()
    assert yaml.load(paths.PIPELINE / "profiles.yaml")["profiles"]["sd15-own"] == {"base": str(pipeline_folder)}


def test_dvc_gets_the_profiles_that_open_a_release(elsewhere, pipeline_folder, tmp_path):
    yaml, release = YAML(typ="safe"), tmp_path / "theirs"
    release.mkdir()
    profiles.write_pipeline_files()
    both = yaml.load(paths.PIPELINE / "profiles.yaml")
    assert both["releases"] == {name: {"release": "synthetic"} for name in ("smoke", "pocket")}
    assert profiles.release_sources() == dict.fromkeys(("smoke", "pocket"), "synthetic\n")
    profiles.enrol("sd15", str(pipeline_folder), str(release))
    profiles.write_pipeline_files()
    both = yaml.load(paths.PIPELINE / "profiles.yaml")
    assert both["releases"]["sd15"] == {"release": str(release)} and "sd15" not in both["profiles"]
    before = profiles.release_sources()["sd15"]
    (release / "mean.pt").write_bytes(b"1")
    after = profiles.release_sources()["sd15"]
    assert (
        before != after
        and "mean.pt" in after
        and "model_index.json" in after
        and profiles.release("sd15") == str(release)
    )
    assert yaml.load(paths.LOCAL)["sd15"] == {
        "release": {"source": str(release)},
        "base": {"model": str(pipeline_folder)},
    }


def test_a_release_may_be_a_name_on_the_hub(elsewhere, pipeline_folder):
    enrol(str(pipeline_folder))
    assert profiles.release("sd15") == HUB
    assert profiles.release_sources()["sd15"].startswith(f"{HUB}\n")


@pytest.mark.parametrize(
    ("profile", "release", "message"),
    [
        ("sd15", None, "profile 'sd15' has no release: name .* RELEASE=<folder or hub id>`"),
        ("sd15", "/no/such/folder", "RELEASE='/no/such/folder': expected a folder, or a hub id"),
        ("sd15", "a/$(touch x)", "RELEASE='a/.*': expected a folder, or a hub id"),
        ("pocket", "a/b", "profile 'pocket' runs on a synthetic release; give RELEASE='a/b' to a profile without one"),
        ("sd15-own", "a/b", "profile 'sd15-own' has no section release, to which RELEASE='a/b' belongs"),
        ("sd15-own", None, "profile 'sd15-own' has no people yet: name their folder as people.sets.source"),
    ],
)
def test_what_a_user_has_to_name_is_refused_in_one_line(elsewhere, pipeline_folder, profile, release, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as refused:
        profiles.enrol(profile, None if profile == "pocket" else str(pipeline_folder), release)
    assert "\n" not in str(refused.value) and not paths.LOCAL.exists()


def test_stages_ask_only_for_what_they_need(elsewhere):
    profiles.check_given("sd15", ["base"])
    profiles.check_given("smoke")
    with pytest.raises(ValueError, match="has no release"):
        profiles.check_given("sd15", ["release"])
    with pytest.raises(ValueError, match="has no people yet"):
        profiles.check_given("sd15-own", ["finetune"])


def test_enrolling_keeps_params_and_what_stands_in_local(elsewhere, pipeline_folder):
    params = paths.PARAMS.read_text()
    local("# mine\nsmoke: {space: {seed: 7}} # a try\n")
    enrol(str(pipeline_folder))
    assert profiles.base("sd15") == pipeline_folder
    after = paths.LOCAL.read_text()
    assert after.startswith("# mine\nsmoke: {space: {seed: 7}} # a try\n")
    assert YAML(typ="safe").load(after)["sd15"] == recorded(pipeline_folder)
    profiles.enrol("sd15")
    enrol(str(pipeline_folder))
    assert paths.LOCAL.read_text() == after and paths.PARAMS.read_text() == params


@pytest.mark.parametrize(
    "text", ["", "# only a remark\n", "sd15:\n", "sd15: {base: }\n", "sd15: {base: {model: /old}}"]
)
def test_enrolling_finds_its_place(elsewhere, pipeline_folder, text):
    local(text)
    enrol(str(pipeline_folder))
    assert profiles.base("sd15") == pipeline_folder
    assert ("remark" in text) == ("# only a remark" in paths.LOCAL.read_text())


@pytest.mark.parametrize("text", ["{}\n", "# mine\nnull\n", "---\n"])
def test_enrolling_leaves_a_file_that_can_be_read(elsewhere, pipeline_folder, text):
    local(text)
    enrol(str(pipeline_folder))
    assert settings.local() == {"sd15": recorded(pipeline_folder)}
    assert ("# mine" in text) == ("# mine" in paths.LOCAL.read_text())


@pytest.mark.parametrize("name", ["~nosuchuser/x", "a" * 5000, "/" + "a" * 300])
def test_a_name_that_no_folder_can_have_is_refused(elsewhere, name):
    with pytest.raises((ValueError, FileNotFoundError), match=name[:20]):
        enrol(name)
    set_locally("smoke", "base.model", name)
    if "~" in name:
        assert "no such user's home" in settings.check()[0]
    else:
        with pytest.raises(FileNotFoundError, match="no base model for profile 'smoke'"):
            profiles.base("smoke")
        assert settings.check() == []


def test_what_is_in_the_place_of_dvcs_files_is_replaced_or_refused_and_not_opened(elsewhere):
    paths.PIPELINE.mkdir(parents=True)
    os.mkfifo(paths.PIPELINE / "profiles.yaml")
    with pytest.raises(ValueError, match=r"profiles.yaml: cannot be written \(no regular file is there\)"):
        profiles.write_pipeline_files()
    (paths.PIPELINE / "profiles.yaml").unlink()
    (paths.PIPELINE / "settings.yaml").write_bytes(b"\xff\xfe")
    assert len(profiles.write_pipeline_files()) == 2
    assert profiles.write_pipeline_files() == []
    found, expected = (YAML(typ="safe").load(path) for path in (paths.PIPELINE / "settings.yaml", paths.PARAMS))
    full, own = found.pop("full"), expected.pop("full")
    assert found == expected
    sets = expected["pocket"]["people"]["sets"] | own["people"]["sets"]
    assert full["people"] == expected["pocket"]["people"] | {"sets": sets}


@pytest.mark.parametrize("name", ["with: colon", "# hash", "it's", '"quoted"', "$(touch x)", "ünïcode", "{a: b}"])
def test_a_base_may_lie_in_a_folder_of_any_name(elsewhere, pipeline_folder, name):
    odd = pipeline_folder.rename(pipeline_folder.parent / name)
    enrol(str(odd))
    assert profiles.base("sd15") == odd
    profiles.write_pipeline_files()
    assert settings.local()["sd15"]["base"]["model"] == str(odd)


@pytest.mark.parametrize(
    "source",
    [
        None,
        "/no/such/folder",
        "not-a-hub-id",
        "../up/down",
        "a/b/c",
        "a/$(touch x)",
        "owner/name; ls",
        "--x/y",
        "a/b\n",
    ],
)
def test_a_missing_base_is_named_and_changes_nothing(elsewhere, source):
    with pytest.raises(FileNotFoundError, match=r"BASE=") as refused:
        enrol(source)
    assert source is None or source.strip() in str(refused.value)
    assert [path.name for path in elsewhere.iterdir()] == ["params.yaml"]


def test_a_folder_that_is_no_pipeline_is_refused(elsewhere, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model_index\.json"):
        enrol(str(tmp_path))
    assert not paths.LOCAL.exists()


def test_a_file_is_no_base(elsewhere, tmp_path):
    (tmp_path / "realistic.safetensors").touch()
    with pytest.raises(ValueError, match=r"realistic\.safetensors' is a file, expected a folder: .*from_single_file"):
        enrol(str(tmp_path / "realistic.safetensors"))


def test_a_profile_keeps_the_base_that_params_gives_it(elsewhere, pipeline_folder):
    with pytest.raises(ValueError, match=r"profile 'pocket' runs on data/base/pocket, as params\.yaml says"):
        profiles.enrol("pocket", str(pipeline_folder))
    assert not paths.LOCAL.exists()


def test_own_people_are_listed_by_their_files_which_are_not_opened(elsewhere):
    ann = elsewhere / "people/ann"
    ann.mkdir(parents=True)
    (ann / "1.png").write_bytes(b"12345")
    os.mkfifo(ann / "pipe.png")
    set_locally("smoke", "people.sets", {"source": "people", "labels": "labels.csv"})
    before = profiles.sources()
    assert before["pocket"] == "rendered\n" and "ann/1.png" in before["smoke"]
    (ann / "1.png").write_bytes(b"123456")
    changed = profiles.sources()["smoke"]
    (elsewhere / "labels.csv").write_text("id,Male\nann,0\n")
    assert len({before["smoke"], changed, profiles.sources()["smoke"]}) == 3
    for sections in ("[1]", "{people: 3}", "{people: {sets: {source: [1]}}}"):  # `check` says what is wrong with these
        local(f"smoke: {sections}")
        profiles.sources()


def test_a_profile_that_needs_a_gpu_is_refused_without_one(elsewhere, monkeypatch):
    paths.LOCAL.write_text("pocket: {base: {needs_gpu: true, dtype: float16, variant: fp16}}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"profile 'pocket' needs a CUDA GPU.*base\.needs_gpu to false"):
        profiles.opening("pocket")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert profiles.opening("pocket") == {"unet_dtype": torch.float16, "variant": "fp16"}
    paths.LOCAL.unlink()
    assert profiles.opening("pocket") == {"unet_dtype": None, "variant": None}


def test_judges_without_weights_are_named_before_the_run(elsewhere, tmp_path):
    local(f"smoke: {{judge: {{clip: {tmp_path}}}}}")
    with pytest.raises((ValueError, FileNotFoundError), match=str(tmp_path)):
        profiles.require_judges("smoke")
    local("smoke: {judge: {face_embedder: facenet, face_weights: /no/such/file.pt}}")
    with pytest.raises(FileNotFoundError, match="/no/such/file"):
        profiles.require_judges("smoke")
    paths.LOCAL.unlink()
    profiles.require_judges("smoke")
    profiles.require_judges("sd15")  # which has no such section


def test_photographs_are_not_judged_by_what_knows_renders_alone(elsewhere):
    local("sd15-own: {judge: {clip: null}}")
    assert any("judge.clip: the pocket world's dual encoder" in line for line in settings.check())
