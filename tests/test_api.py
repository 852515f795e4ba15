"""The public API: what the README lists is there, and its ten lines run from an installed wheel."""

import os
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

import w2w_lib
from w2w_lib import AdapterLayout, WeightSpace, fingerprint, fit_directions, open_base, save_directions
from w2w_lib.workbook import paths

MODELS = 40


def readme() -> str:
    return (paths.ROOT / "README.md").read_text(encoding="utf-8")


def ten_lines() -> str:
    return re.search(r"## In ten lines\n.*?```python\n(.*?)```", readme(), flags=re.DOTALL)[1]


def test_the_readme_lists_every_public_name_and_no_other():
    table = readme().split("| name | what it does |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE)) == set(w2w_lib.__all__)
    assert all(getattr(w2w_lib, name).__doc__ for name in w2w_lib.__all__)


def test_the_example_has_ten_lines_and_uses_public_names_only():
    lines = [line for line in ten_lines().splitlines() if line.strip() and not line.startswith(("import", "from", "#"))]
    assert len(lines) <= 10
    assert set(re.findall(r"w2w\.(\w+)", ten_lines())) <= set(w2w_lib.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = w2w_lib.nothing


def small_world(folder) -> None:
    """What the example opens: the pocket base, a space of random adapters with labels planted on them, a photograph."""
    base = folder / "data/base/pocket"
    shutil.copytree(paths.ROOT / "data/base/pocket", base)
    pipeline = open_base(base)
    layout = AdapterLayout.of(pipeline.unet, fingerprint(pipeline))
    rng = torch.Generator().manual_seed(0)
    weights = layout.initial() + 0.02 * torch.randn(MODELS, layout.dimension, generator=rng)
    ids = [f"train-{i:05d}" for i in range(MODELS)]
    space = WeightSpace.fit(layout, weights, ids, 8)
    labels = pd.DataFrame({"Young": (space.coefficients[:, 0] > 0).numpy()}, index=ids)
    space.save(folder / "outputs/pocket/space/space.safetensors")
    save_directions(fit_directions(space, labels, 8), folder / "outputs/pocket/directions/directions.safetensors")
    Image.fromarray(astronaut()).save(folder / "photo.jpg")


@pytest.mark.slow
def test_the_ten_lines_run_from_a_wheel_outside_the_repository(tmp_path):
    uv = os.environ.get("UV", "uv")
    run = {"check": True, "capture_output": True, "text": True}
    subprocess.run([uv, "build", "--wheel", "--out-dir", tmp_path, paths.ROOT], **run)
    (wheel,) = tmp_path.glob("*.whl")
    site, world = tmp_path / "site", tmp_path / "world"
    subprocess.run([uv, "pip", "install", "--no-deps", "--target", site, wheel], **run)
    world.mkdir()
    small_world(world)
    (world / "example.py").write_text(ten_lines() + "\nprint(w2w.__file__)\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "W2W_ROOT"}
    environment["PYTHONPATH"] = str(site)
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=world, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith(str(site / "w2w_lib/__init__.py"))
    layout = WeightSpace.load(world / "outputs/pocket/space/space.safetensors").layout
    assert torch.isfinite(w2w_lib.load_adapter(layout, world / "me.safetensors")).all()
    assert Image.open(world / "people.png").size == (256, 128)
