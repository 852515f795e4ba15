"""The fleet against PEFT: the same adapters, alone, in company and one at a time."""

import copy
from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from tiny_fleet import RECIPE, WITHIN
from transformers import get_linear_schedule_with_warmup

from w2w_lib.lora.adapter_files import save_adapter
from w2w_lib.lora.batched import apply_adapters
from w2w_lib.lora.initialisation import INITIALISATIONS
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.denoising import denoising_loss, draw, stream
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.prompts import CLASS_PROMPT, INSTANCE_PROMPT, encode_prompts
from w2w_lib.training.fleet import Fleet
from w2w_lib.training.weights_dataset import WeightsDataset


@pytest.fixture(scope="module", params=["paper", "release"])
def layout(request, pipeline):
    return AdapterLayout.of(pipeline.unet, fingerprint(pipeline), request.param, rank=1, alpha=3)


def random_theta(layout, models, seed=0):
    return torch.randn(models, layout.dimension, generator=torch.Generator().manual_seed(seed)) * 0.2


def peft_model(unet, layout, weights, folder):
    save_adapter(layout, weights, folder, "peft")
    return PeftModel.from_pretrained(copy.deepcopy(unet), str(folder), is_trainable=True)


def test_each_row_wears_its_own_adapter_as_in_peft(pipeline, layout, tmp_path):
    weights = random_theta(layout, 3)
    x, t = torch.randn(3, 4, 8, 8), torch.tensor([10, 500, 999])
    text = encode_prompts(pipeline, ["a photo of sks person"] * 3)
    before = pipeline.unet(x, t, text).sample
    with apply_adapters(pipeline.unet, layout, weights):
        ours = pipeline.unet(x, t, text).sample
    for i in range(3):
        reference = peft_model(pipeline.unet, layout, weights[i], tmp_path / str(i))
        expected = reference(x[i : i + 1], t[i : i + 1], text[i : i + 1]).sample
        torch.testing.assert_close(ours[i : i + 1], expected, rtol=1e-4, atol=1e-5)
        assert (ours[i] - before[i]).abs().max() > 1e-3
    torch.testing.assert_close(pipeline.unet(x, t, text).sample, before, rtol=0, atol=0)


def train_with_peft(pipeline, layout, latents, prior, identity, start, recipe=RECIPE):
    """DreamBooth as PEFT's users write it: one model, one loop."""
    config = LoraConfig(r=layout.rank, lora_alpha=layout.alpha, target_modules=list(layout.targets))
    model = get_peft_model(copy.deepcopy(pipeline.unet), config)
    start = layout.unflatten(start[None])
    trained = {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}
    assert trained.keys() == start.keys()
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(start[name][0])
    optimizer = create_loraplus_optimizer(
        model,
        torch.optim.AdamW,
        lr=recipe.learning_rate,
        loraplus_lr_ratio=recipe.lr_ratio,
        loraplus_weight_decay=recipe.weight_decay,
    )
    schedule = get_linear_schedule_with_warmup(optimizer, 0, recipe.steps)
    rng = stream(recipe.seed, identity)
    texts = [encode_prompts(pipeline, [p]) for p in (INSTANCE_PROMPT, CLASS_PROMPT)]
    norms = []
    for _ in range(recipe.steps):
        loss = 0
        for source, count, text, weight in (
            (latents, recipe.instance_batch, texts[0], 1.0),
            (prior, recipe.prior_batch, texts[1], recipe.prior_weight),
        ):
            batch = draw(rng, source, count, recipe.timesteps)
            text = text.expand(count, -1, -1)
            loss = loss + weight * denoising_loss(model, pipeline.scheduler, *batch, text).mean()
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(trained.values(), recipe.clip_norm))
        optimizer.step()
        schedule.step()
    assert max(norms) > recipe.clip_norm  # it is clipped
    return layout.flatten({n: p.detach() for n, p in trained.items()})


@pytest.mark.parametrize(("start", "lr_ratio"), [*zip(INITIALISATIONS, (1.0, 8.0, 8.0), strict=True)])
def test_fleet_equals_peft_alone_and_in_company(pipeline, layout, images, prior, start, lr_ratio):
    recipe = replace(RECIPE, initialisation=start, lr_ratio=lr_ratio, learning_rate=RECIPE.learning_rate / lr_ratio)
    fleet = Fleet(pipeline, layout, recipe, prior)
    together, _ = fleet.train(images)
    backwards, _ = fleet.train(dict(reversed(images.items())))
    for i, (identity, latents) in enumerate(images.items()):
        alone, _ = fleet.train({identity: latents})
        sequential = train_with_peft(pipeline, layout, latents, prior, identity, fleet.start, recipe)
        moved = (sequential - fleet.start).norm()
        assert moved > 0.1
        for other in (alone[0], together[i], backwards[-1 - i]):
            assert (other - sequential).norm() < WITHIN * moved


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_compiled_fleet_trains_the_same_adapters(
    pipeline, layout, images, prior, monkeypatch, checkpointing, unchecked
):
    # Traced and differentiated as a graph, but run by PyTorch: the C++ that is made of it takes minutes to compile.
    traced = Mock(wraps=partial(torch.compile, backend="aot_eager", fullgraph=True))
    monkeypatch.setattr(torch, "compile", traced)
    fleet = Fleet(pipeline, layout, RECIPE, prior)
    eager, _ = fleet.train(images)
    assert not traced.called
    compiled, _ = Fleet(pipeline, layout, RECIPE, prior, compiled=True, checkpointing=checkpointing).train(images)
    assert traced.called and (compiled - eager).norm() < WITHIN * (eager - fleet.start).norm()


def test_checkpointing_needs_less_memory_and_trains_the_same_adapters(pipeline, layout, images, prior):
    needed, trained = [], []
    for on in (False, True):
        fleet = Fleet(pipeline, layout, RECIPE, prior, checkpointing=on)
        needed.append(fleet.memory_per_model(images["person-0"]))
        trained.append(fleet.train(images)[0])
    assert needed[1] < needed[0] / 2
    assert (trained[1] - trained[0]).norm() < WITHIN * (trained[0] - fleet.start).norm()


def test_somebody_who_diverges_stops_nobody_else_and_is_named(pipeline, layout, images, prior, tmp_path):
    fleet, dataset = Fleet(pipeline, layout, RECIPE, prior), WeightsDataset.create(tmp_path, layout, {})
    sick = images | {"person-0": images["person-0"] * torch.nan}
    for _ in range(2):
        with pytest.raises(ValueError, match="weights of person-0 became NaN or infinite; all others are finished"):
            fleet.train_all(sick, dataset, fleet_size=2)
        assert sorted(dataset.ids) == ["person-1", "person-2"]
    fleet.train_all(images, dataset)
    assert sorted(dataset.ids) == list(images)


def test_rows_that_learned_other_pictures_are_not_taken_for_finished(pipeline, layout, images, prior, tmp_path):
    fleet, dataset = Fleet(pipeline, layout, RECIPE, prior), WeightsDataset.create(tmp_path, layout, {})
    seen = {identity: f"pictures of {identity}" for identity in images}
    fleet.train_all(images, dataset, pictures=seen)
    assert dataset.pictures() == seen
    fleet.train_all(images, dataset, pictures=seen)
    with pytest.raises(ValueError, match="1 finished people, among them person-1, learned other pictures"):
        fleet.train_all(images, dataset, pictures=seen | {"person-1": "others"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 0}, "steps is 0, expected at least 1"),
        ({"instance_batch": 0}, "instance_batch is 0"),
        ({"prior_batch": 0}, "prior_batch is 0"),
        ({"timesteps": (500, 500)}, "expected a first one and a later end"),
    ],
)
def test_recipes_that_cannot_be_followed(change, said):
    with pytest.raises(ValueError, match=said):
        replace(RECIPE, **change)
    replace(RECIPE, prior_weight=0.0, prior_batch=0)


def test_dataset_resumes_and_refuses(pipeline, layout, images, prior, tmp_path):
    fleet = Fleet(pipeline, layout, RECIPE, prior)
    whole = WeightsDataset.create(tmp_path / "whole", layout, RECIPE.to_dict())
    fleet.train_all(images, whole, fleet_size=2)
    part = WeightsDataset.create(tmp_path / "part", layout, RECIPE.to_dict())
    fleet.train_all({"person-1": images["person-1"]}, part)
    (part.folder / ".shard-person-0-1.partial.safetensors").write_bytes(b"half a shard, as kill -9 leaves it")
    fleet.train_all(images, WeightsDataset.create(tmp_path / "part", layout, RECIPE.to_dict()), fleet_size=1)
    ids = list(images)
    assert sorted(part.ids) == sorted(whole.ids) == sorted(ids)
    assert (part.weights(ids) - whole.weights(ids)).norm() < WITHIN * (whole.weights(ids) - fleet.start).norm()
    whole.verify()
    with pytest.raises(ValueError, match=r"person-0.*already"):
        whole.append(["person-0"], whole.weights(["person-0"]), torch.zeros(1))
    with pytest.raises(ValueError, match="another fine-tuning recipe"):
        WeightsDataset.create(whole.folder, layout, RECIPE.to_dict() | {"steps": 6})
    with pytest.raises(ValueError, match="NaN"):
        whole.append(["new"], torch.full((1, layout.dimension), torch.nan), torch.zeros(1))
    shard = next(whole.folder.glob("shard-*"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        whole.weights()
