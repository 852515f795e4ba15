"""The random base has Stable Diffusion 1.5's structure, and is the same each time."""

import pytest
from tiny_base import stable_diffusion_unet

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.base import open_base
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.release.random_base import random_stable_diffusion, write_random_base


def test_its_adapters_have_the_modules_of_stable_diffusion():
    narrow, wide = (
        AdapterLayout.of(unet, "a base", "release", 1, 27.0)
        for unet in (random_stable_diffusion().unet, stable_diffusion_unet())
    )
    assert [factor.key for factor in narrow.factors] == [factor.key for factor in wide.factors]
    assert wide.dimension == 99_648 and narrow.dimension < 10_000


def test_it_is_one_base_wherever_it_lies(tmp_path):
    bases = [open_base(write_random_base(tmp_path / name)) for name in ("one", "two", "one")]
    assert len({fingerprint(base) for base in bases}) == 1
    config = bases[0].scheduler.config
    assert (config.beta_start, config.beta_end, config.prediction_type) == (0.00085, 0.012, "epsilon")


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot be made .*expected a folder, or nothing yet"):
        write_random_base(tmp_path / "file")
