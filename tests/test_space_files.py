"""What a saved space holds, and which files are none."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import PCS
from safetensors import safe_open
from safetensors.torch import save_file

from w2w_lib.space.weight_space import WeightSpace


@pytest.mark.parametrize("standardise", [False, True])
def test_space_round_trip(layout, weights, ids, tmp_path, standardise):
    space = WeightSpace.fit(layout, weights, ids, PCS, standardise=standardise).truncated(5)
    space.save(tmp_path / "space.safetensors")
    found = WeightSpace.load(tmp_path / "space.safetensors")
    assert (found.layout, found.ids, found.total_variance) == (layout, ids, space.total_variance)
    assert (found.source, found.fingerprint, found.solver) == (space.source, space.fingerprint, space.solver)
    for name in ("mean", "components", "coefficients", "scale"):
        kept, wanted = getattr(found, name), getattr(space, name)
        assert (kept is None and wanted is None) or torch.equal(kept, wanted)
    assert [p.name for p in tmp_path.iterdir()] == ["space.safetensors"]


@pytest.fixture
def stored(space, tmp_path):
    """Write a saved space again with other tensors or metadata; its path."""
    space.save(tmp_path / "good.safetensors")

    def change(tensors=(), metadata=(), without=()):
        with safe_open(tmp_path / "good.safetensors", "pt") as file:
            kept = {name: file.get_tensor(name) for name in file.keys()} | dict(tensors)
            entries = file.metadata() | {name: json.dumps(value) for name, value in dict(metadata).items()}
        entries = {name: value for name, value in entries.items() if name not in without}
        kept = {name: value.contiguous() for name, value in kept.items() if name not in without}
        path = tmp_path / f"changed-{len(list(tmp_path.iterdir()))}.safetensors"
        save_file(kept, path, entries)
        return path

    return change


def test_a_space_of_before_it_said_its_origin_is_refused(stored):
    with pytest.raises(ValueError, match="has no metadata 'rows'; expected a saved w2w space; fit the space again"):
        WeightSpace.load(stored(without=("rows", "solver", "fingerprint")))


def test_load_refuses_what_is_no_space(space, ids, stored, tmp_path):
    skewed, swapped = space.components.clone(), space.coefficients.clone()
    skewed[1] = 0.8 * skewed[1] + 0.6 * skewed[0]
    swapped[[0, 1]] = swapped[[1, 0]]
    broken = space.mean.clone()
    broken[3] = torch.nan
    short = json.loads(space.layout.to_json()) | {"factors": json.loads(space.layout.to_json())["factors"][:2]}
    for path, error in [
        (stored(without=("mean",)), "has no tensor 'mean'"),
        (stored({"mean": broken}), "tensor 'mean' holds NaN"),
        (stored({"mean": space.mean[:5]}), "tensor 'mean' has 5 d"),
        (stored({"components": skewed}), "components are not orthonormal"),
        (stored({"components": 1.1 * space.components}), "components are not orthonormal"),
        (stored({"coefficients": swapped}), "its content is .*, what was saved .*; fit the space again"),
        (stored(metadata={"ids": [*ids[:-1], ids[0]]}), "ids train-00000 are there more than once"),
        (stored(metadata={"ids": ids[:-1]}), "59 ids for 60 models"),
        (stored(metadata={"ids": [*ids[:-1], "else"]}), "its content is"),
        (stored(metadata={"ids": 5}), "metadata 'ids'"),
        (stored(metadata={"total_variance": "much"}), "metadata 'total_variance'"),
        (stored({"components": space.components[:0], "coefficients": space.coefficients[:, :0]}), "and 0 components"),
        (stored(metadata={"total_variance": "5"}), "metadata 'total_variance': Input should be a valid number"),
        (tmp_path / "a\0b", "is no path; expected the path of a saved w2w space"),
        (tmp_path / ("n" * 300), "cannot be looked at"),
        (stored(metadata={"layout": {}}), "metadata 'layout'"),
        (stored(metadata={"layout": short}), ".safetensors: space of 60 models, 8 components and a layout of"),
        (tmp_path, "is a folder; expected a saved w2w space"),
    ]:
        with pytest.raises(ValueError, match=error) as refused:
            WeightSpace.load(path)
        assert "\n" not in str(refused.value)
    with pytest.raises(FileNotFoundError, match="no such file; expected a saved w2w space"):
        WeightSpace.load(tmp_path / "none.safetensors")


def test_deviations_apart_from_coefficients_and_components_in_bf16(space, weights, tmp_path, unchecked):
    """Saved and opened again; truncated to what is known, it is the space of those coefficients."""
    half = replace(
        space,
        components=space.components.bfloat16(),
        coefficients=space.coefficients[:, :3],
        component_std=space.std,
    )
    half.save(tmp_path / "half.safetensors")
    opened = WeightSpace.load(tmp_path / "half.safetensors")
    assert opened.fingerprint == half.fingerprint != space.fingerprint and opened.known == 3
    torch.testing.assert_close(opened.std, space.std)
    np.testing.assert_allclose(opened.explained, space.explained, rtol=1e-5)
    torch.testing.assert_close(opened.project(weights), space.project(weights), rtol=0.02, atol=0.02)
    assert len(opened.truncated(2).std) == opened.truncated(2).known == 2
    for wrong in ({"component_std": space.std[:3]}, {"component_std": None}):
        with pytest.raises(ValueError, match=r"of shape .*, expected"):
            replace(half, **wrong)
