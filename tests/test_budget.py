"""The README's table of what Stable Diffusion 1.5 costs."""

import pytest
import torch
from budget import table
from budget_costs import costs_of_stable_diffusion, forward_flops, training_flops
from budget_rows import pictures, release
from diffusers import UNet2DConditionModel

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.sampling import Sampling
from w2w_lib.workbook import paths
from w2w_lib.workbook.settings import load

SMOKE_09 = 1476, 536, 67  # rows with gradient, without, pictures: counted in a run, less the trial pass of the base


def test_a_convolution_and_a_linear_layer_cost_what_the_closed_form_says():
    with torch.device("meta"):
        layers = torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.Linear(16, 32)
        inputs = torch.empty(1, 4, 10, 10), torch.empty(1, 7, 16)
    found = [forward_flops(layer, x) for layer, x in zip(layers, inputs, strict=True)]
    assert found == [2 * 100 * 8 * 4 * 9, 2 * 7 * 16 * 32]


def test_a_frozen_unet_trains_for_about_twice_its_forward_pass():
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64, 64, 64),
            cross_attention_dim=16,
            attention_head_dim=8,
            norm_num_groups=16,
        )
        row = torch.empty(1, 4, 8, 8), torch.zeros(1), torch.empty(1, 77, 16)
    unet.requires_grad_(False)
    layout = AdapterLayout.of(unet, "0" * 16, "release")
    forward = forward_flops(unet, *row)
    assert 1.8 < training_flops(unet, layout, *row) / forward < 2.4


def test_guidance_doubles_the_rows_of_a_picture():
    assert pictures(3, Sampling(steps=5, guidance=2.5)).forward == 30
    assert pictures(3, Sampling(steps=5, guidance=1.0)).forward == 15


def test_rows_of_notebook_09_are_those_of_a_run():
    passes = release(load("smoke"))
    assert (passes.trained, passes.forward, passes.decoded) == SMOKE_09


def test_the_readme_has_the_table_that_the_script_prints():
    costs = costs_of_stable_diffusion()
    assert costs.forward == pytest.approx(2 * 0.4e12, rel=0.05)  # the published 0.4 TMAC of Stable Diffusion 1.5
    _, _, rest = (paths.ROOT / "README.md").read_text(encoding="utf-8").partition("<!-- table of profiles' cost -->\n")
    written, end, _ = rest.partition("\n<!-- end of the table -->")
    assert end and written == table(["sd15", "sd15-own"], costs)
