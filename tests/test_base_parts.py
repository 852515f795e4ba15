"""Whether the parts of a base fit one another: tensors, settings, schedule, tokenizer."""

import json
from pathlib import Path

import pytest
import torch
from base_folder import TEXT, UNET, VAE, edit, refusal, rewrite
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file
from tiny_base import tiny_pipeline

from w2w_lib.models.base import open_base
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.schedule import as_ddim


def test_missing_unknown_and_reshaped_tensors_are_refused(base):
    for name in (UNET, TEXT, VAE):
        original = (base / name).read_bytes()
        key = next(iter(sorted(load_file(base / name))))

        rewrite(base / name, lambda tensors, key=key: tensors.pop(key))
        assert f"has no tensor {key.removeprefix('text_model.')}" in refusal(base)
        (base / name).write_bytes(original)
        rewrite(base / name, lambda tensors: tensors.update(extra=torch.zeros(3)))
        assert "has an unknown tensor extra" in refusal(base)
        (base / name).write_bytes(original)
        rewrite(base / name, lambda tensors, key=key: tensors.update({key: tensors[key][None]}))
        assert "has shape" in refusal(base)
        (base / name).write_bytes(original)
        # as many numbers as there should be, under another name
        rewrite(base / name, lambda tensors, key=key: tensors.update({"other": tensors.pop(key)}))
        assert "has no tensor" in refusal(base)
        (base / name).write_bytes(original)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(base, number):
    rewrite(base / UNET, lambda tensors: next(iter(tensors.values())).view(-1)[:1].fill_(number))
    assert "NaN or infinite" in refusal(base)


def test_weights_of_several_types_are_read_in_fp32(base):
    own = fingerprint(open_base(base))
    for name in (UNET, TEXT, VAE):
        rewrite(base / name, lambda tensors: tensors.update({(key := min(tensors)): tensors[key].double()}))
    assert fingerprint(pipeline := open_base(base)) == own
    assert {p.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder) for p in part.parameters()} == {
        torch.float32
    }
    rewrite(base / UNET, lambda tensors: tensors[min(tensors)].fill_(1e300))
    assert "NaN or infinite" in refusal(base)


def test_a_tensor_under_both_its_names_is_refused(base):
    name = "final_layer_norm.bias"
    rewrite(base / TEXT, lambda tensors: tensors.update({f"text_model.{name}": torch.ones(16), name: torch.zeros(16)}))
    assert f"has tensors {name} and text_model.{name}, which are the same one" in refusal(base)


def test_weights_that_overflow_in_half_precision_are_refused(base):
    rewrite(base / UNET, lambda tensors: tensors["conv_in.bias"].fill_(1e6))
    open_base(base, torch.bfloat16)
    assert "'conv_in.bias' holds NaN or infinite numbers (as torch.float16)" in refusal(base, unet_dtype=torch.float16)


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("unet", {"_class_name": "UNet1DModel"}, "UNet1DModel"),
        ("unet", {"in_channels": 9}, "conv_in.weight"),
        ("unet", {"layers_per_block": 10**9}, "layers_per_block 1000000000"),
        ("unet", {"block_out_channels": [10**6, 10**6]}, "has shape"),
        ("unet", {"block_out_channels": "wide"}, "expected settings of a UNet2DConditionModel"),
        ("unet", {"norm_num_groups": 0}, "expected settings of a UNet2DConditionModel"),
        ("unet", {"sample_size": None}, "sample_size"),
        ("unet", {"sample_size": 10**6}, "sample_size"),
        ("unet", {"sample_size": [8, 8]}, "sample_size"),
        ("unet", {"sample_size": 7}, "expected a multiple of 8 pixels"),
        ("unet", {"sample_size": 8.0}, "unet/config.json: "),
        ("unet", {"norm_num_groups": -8}, "unet/config.json: Expected num groups"),
        ("unet", {"norm_eps": None}, "unet/config.json: "),
        ("unet", {"mid_block_scale_factor": float("nan")}, "mid_block_scale_factor: expected a number, found nan"),
        ("unet", {"freq_shift": "0"}, "freq_shift: expected a number, found '0'"),
        ("unet", {"flip_sin_to_cos": "false"}, "flip_sin_to_cos: expected true or false, found 'false'"),
        ("unet", {"_diffusers_version": None}, "expected"),
        ("vae", {"norm_num_groups": -4}, "vae/config.json: Expected num groups"),
        ("text_encoder", {"num_attention_heads": -2}, "text_encoder/config.json: "),
        ("text_encoder", {"layer_norm_eps": None}, "text_encoder/config.json: "),
        ("unet", {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantized"),
        ("vae", {"scaling_factor": 0}, "scaling_factor"),
        ("vae", {"scaling_factor": None}, "scaling_factor"),
        ("text_encoder", {"model_type": "t5"}, "t5"),
        ("text_encoder", {"hidden_act": "no such thing"}, "expected settings of a CLIPTextModel"),
        ("text_encoder", {"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000"),
        ("text_encoder", {"vocab_size": 10**9}, "has shape"),
    ],
)
def test_settings_that_do_not_fit_the_weights_are_refused(base, name, changes, told, unchecked):
    edit(base / name / "config.json", **changes)
    assert told in refusal(base)


def test_components_that_do_not_fit_one_another_are_refused(base, tmp_path):
    def saved(**settings) -> Path:
        parts, unet = tiny_pipeline(), tiny_pipeline().unet
        public = {name: value for name, value in unet.config.items() if not name.startswith("_")}
        parts.unet = type(unet).from_config(public | settings)
        parts.save_pretrained(base)
        return base

    assert "inpainting" in refusal(saved(in_channels=9))
    assert "8 channels into the UNet, 4 latent channels" in refusal(saved(in_channels=8, out_channels=8))
    assert "8 channels out of the UNet, 4 channels into it" in refusal(saved(out_channels=8))
    assert "24 text width of the UNet, 16 width of the text encoder" in refusal(saved(cross_attention_dim=24))
    assert "num_class_embeds" in refusal(saved(num_class_embeds=3))
    open_base(saved())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"prediction_type": "sample"}, "prediction_type 'sample'"),
        ({"prediction_type": "flow_prediction"}, "prediction_type 'flow_prediction'"),
        ({"prediction_type": "epsilon"}, "pure noise"),  # with zero terminal SNR
        ({"trained_betas": [0.1] * 7}, "7 betas for 1000 timesteps"),
        ({"trained_betas": [1.5] * 1000, "rescale_betas_zero_snr": False}, "expected numbers between 0 and 1"),
        ({"beta_schedule": "none of them"}, "none of them"),
        ({"num_train_timesteps": 0}, "num_train_timesteps"),
        ({"timestep_spacing": "even"}, "even"),
        ({"thresholding": True, "dynamic_thresholding_ratio": 7}, "quantile"),
        ({"clip_sample": "no"}, "clip_sample: expected true or false, found 'no'"),
        ({"trained_betas": [0.0] * 1000, "rescale_betas_zero_snr": False}, "NaN or infinite numbers of finite ones"),
        ({"num_train_timesteps": 10**12}, "num_train_timesteps"),
        ({"beta_end": "much"}, "scheduler_config.json"),
    ],
)
def test_schedules_that_do_not_fit_are_refused(base, changes, told):
    edit(base / "scheduler/scheduler_config.json", **changes)
    assert told in refusal(base)


def test_a_flow_matching_scheduler_is_refused(base):
    FlowMatchEulerDiscreteScheduler().save_pretrained(base / "scheduler")
    edit(base / "model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"])
    assert "FlowMatchEulerDiscreteScheduler has no betas" in refusal(base)
    with pytest.raises(ValueError, match="has no betas"):
        as_ddim(FlowMatchEulerDiscreteScheduler())


def test_tokenizers_that_do_not_fit_are_refused(base, unchecked):
    path = base / "tokenizer/tokenizer.json"
    whole = path.read_text()
    edit(base / "tokenizer/tokenizer_config.json", model_max_length=1000)
    assert "model_max_length: expected a whole number of at least 3 and at most 77, found 1000" in refusal(base)
    for length in (0, 2, -1, "77", 7.5):
        edit(base / "tokenizer/tokenizer_config.json", model_max_length=length)
        assert "model_max_length: expected" in refusal(base)
    edit(base / "tokenizer/tokenizer_config.json", model_max_length=77, padding_side="left")  # paints other pictures
    assert "pads and cuts prompts on the left, right; expected right alone" in refusal(base)
    edit(base / "tokenizer/tokenizer_config.json", padding_side="right", model_input_names=["input_ids"])
    assert "expected the files of a CLIPTokenizer" in refusal(base)
    (base / "tokenizer/tokenizer_config.json").unlink()  # without it a tokenizer has no longest prompt
    assert "model_max_length" in refusal(base)
    path.write_text("{}")
    assert "expected the files of a CLIPTokenizer" in refusal(base)
    config = json.loads(whole)
    config["model"]["vocab"]["quux</w>"] = 5000
    path.write_text(json.dumps(config))
    edit_config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (base / "tokenizer/tokenizer_config.json").write_text(json.dumps(edit_config))
    assert "a token of number 5000" in refusal(base)
