"""The fleet against PEFT: the same adapters, alone, together and one at a time."""

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
from w2w_lib.models import precision
from w2w_lib.models.base import open_base
from w2w_lib.models.denoising import denoising_loss, draw_rows, stream
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.prompts import encode_prompts
from w2w_lib.training.fleet import Fleet
from w2w_lib.training.recipe import FleetRecipe


@pytest.fixture(scope="module", params=["paper", "release"])
def any_layout(request, pipeline):
    return AdapterLayout.of(pipeline.unet, fingerprint(pipeline), request.param, rank=1, alpha=3)


def random_weights(layout, models, seed=0):
    return torch.randn(models, layout.dimension, generator=torch.Generator().manual_seed(seed)) * 0.2


def peft_model(unet, layout, weights, folder):
    save_adapter(layout, weights, folder, "peft")
    return PeftModel.from_pretrained(copy.deepcopy(unet), str(folder), is_trainable=True)


def test_each_row_has_its_own_adapter_as_in_peft(pipeline, any_layout, tmp_path):
    weights = random_weights(any_layout, 3)
    x, t = torch.randn(3, 4, 8, 8), torch.tensor([10, 500, 999])
    text = encode_prompts(pipeline, ["a photo of sks person"] * 3)
    before = pipeline.unet(x, t, text).sample
    with apply_adapters(pipeline.unet, any_layout, weights):
        ours = pipeline.unet(x, t, text).sample
    for i in range(3):
        reference = peft_model(pipeline.unet, any_layout, weights[i], tmp_path / str(i))
        expected = reference(x[i : i + 1], t[i : i + 1], text[i : i + 1]).sample
        torch.testing.assert_close(ours[i : i + 1], expected, rtol=1e-4, atol=1e-5)
        assert (ours[i] - before[i]).abs().max() > 1e-3
    torch.testing.assert_close(pipeline.unet(x, t, text).sample, before, rtol=0, atol=0)


def train_with_peft(pipeline, layout, latents, prior, identity, initial, recipe=RECIPE, contexts=(None, None)):
    """DreamBooth as PEFT's users write it: one model, one loop."""
    own, of_class = contexts
    prompts = [f"a photo of sks person, {c}" if c else "sks person" for c in own or [""] * len(latents)]
    class_prompts = [f"a photo of person, {c}" for c in of_class] if of_class else ["person"] * len(prior)
    signal = pipeline.scheduler.alphas_cumprod
    snr = signal / (1 - signal)
    weights = snr.clamp(max=recipe.min_snr) / (snr + 1) if recipe.min_snr else torch.ones_like(snr)
    config = LoraConfig(r=layout.rank, lora_alpha=layout.alpha, target_modules=list(layout.targets))
    model = get_peft_model(copy.deepcopy(pipeline.unet), config)
    initial = layout.unflatten(initial[None])
    trained = {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}
    assert trained.keys() == initial.keys()
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(initial[name][0])
    optimizer = create_loraplus_optimizer(
        model,
        torch.optim.AdamW,
        lr=recipe.learning_rate,
        loraplus_lr_ratio=recipe.lr_ratio,
        loraplus_weight_decay=recipe.weight_decay,
    )
    schedule = get_linear_schedule_with_warmup(optimizer, 0, recipe.steps)
    rng = stream(recipe.seed, identity)
    norms = []
    for _ in range(recipe.steps):
        loss = 0
        for source, count, said, weight in (
            (latents, recipe.instance_batch, prompts, 1.0),
            (prior, recipe.prior_batch, class_prompts, recipe.prior_weight),
        ):
            rows, noise, timesteps = draw_rows(rng, source, count, recipe.timesteps, recipe.timestep_density)
            text = encode_prompts(pipeline, [said[row] for row in rows])
            losses = denoising_loss(model, pipeline.scheduler, source[rows], noise, timesteps, text)
            loss = loss + weight * (weights[timesteps] * losses).mean()
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(trained.values(), recipe.clip_norm))
        optimizer.step()
        schedule.step()
    assert max(norms) > recipe.clip_norm  # it is clipped
    return layout.flatten({n: p.detach() for n, p in trained.items()})


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "lr_ratio"), [*zip(INITIALISATIONS, (1.0, 8.0, 8.0, 8.0), strict=True)])
def test_fleet_equals_peft_alone_and_together(pipeline, any_layout, images, prior, kind, lr_ratio):
    rates = {"lr_ratio": lr_ratio, "learning_rate": RECIPE.learning_rate / lr_ratio}
    recipe = replace(RECIPE, initialisation=kind, clip_norm=RECIPE.clip_norm / 2, **rates)
    fleet = Fleet(pipeline, any_layout, recipe, prior)
    together, _ = fleet.train(images)
    backwards, _ = fleet.train(dict(reversed(images.items())))
    for i, (identity, latents) in enumerate(images.items()):
        alone, _ = fleet.train({identity: latents})
        sequential = train_with_peft(pipeline, any_layout, latents, prior, identity, fleet.initial, recipe)
        moved = (sequential - fleet.initial).norm()
        assert moved > 0.1
        for other in (alone[0], together[i], backwards[-1 - i]):
            assert (other - sequential).norm() < WITHIN * moved


CONTEXTS = {"person-0": ["smiling", "woman", "man", "smiling"], "person-1": ["smiling woman", "", "man", "photo"]}
PRIOR_CONTEXTS = ["man", "woman", "smiling", "smiling", "photo", "of"]


@pytest.mark.slow
def test_a_fleet_with_contexts_equals_peft(pipeline, layout, images, prior):
    recipe = replace(RECIPE, instance_prompt="context", timestep_density="logit_normal", min_snr=2.0)
    fleet = Fleet(pipeline, layout, recipe, prior, contexts=CONTEXTS, prior_contexts=PRIOR_CONTEXTS)
    together, _ = fleet.train(images)
    plain, _ = Fleet(pipeline, layout, replace(recipe, instance_prompt="plain"), prior, contexts=CONTEXTS).train(images)
    for i, (identity, latents) in enumerate(images.items()):
        named = CONTEXTS.get(identity), PRIOR_CONTEXTS
        sequential = train_with_peft(pipeline, layout, latents, prior, identity, fleet.initial, recipe, named)
        moved = (sequential - fleet.initial).norm()
        assert (together[i] - sequential).norm() < WITHIN * moved
        assert (plain[i] - sequential).norm() > 0.05 * moved


def test_rows_of_other_prompts_are_not_taken_for_finished(pipeline, layout, images, prior, tmp_path):
    recipe = replace(RECIPE, steps=1, instance_prompt="context")
    made = partial(Fleet, pipeline, layout, recipe, prior)
    fleet, seen = made(contexts=CONTEXTS, prior_contexts=PRIOR_CONTEXTS), {"person-0": "pictures"}
    dataset = fleet.dataset(tmp_path)
    fleet.train_all(images, dataset, pictures=seen)
    fleet.train_all(images, dataset, pictures=seen)
    learned = dataset.pictures()
    assert len(learned["person-0"]) == len(learned["person-1"]) == 16 and learned["person-2"] is None
    others = CONTEXTS | {"person-1": ["man"] * 4}
    with pytest.raises(ValueError, match="1 finished people, person-1, learned other pictures"):
        made(contexts=others, prior_contexts=PRIOR_CONTEXTS).train_all(images, dataset, pictures=seen)
    with pytest.raises(ValueError, match=r"another fine-tuning recipe .*class_prompts"):
        made(contexts=CONTEXTS, prior_contexts=PRIOR_CONTEXTS[::-1]).dataset(tmp_path)
    with pytest.raises(ValueError, match="person-0: 3 contexts for 4 pictures; expected one for each"):
        made(contexts={"person-0": ["man"] * 3}).train(images)
    with pytest.raises(ValueError, match="2 contexts for 6 class pictures: expected one for each"):
        made(prior_contexts=["man", "woman"])


@pytest.mark.slow
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
    assert traced.called and (compiled - eager).norm() < WITHIN * (eager - fleet.initial).norm()


def test_checkpointing_needs_less_memory_and_trains_the_same_adapters(pipeline, layout, images, prior):
    needed, trained = [], []
    for on in (False, True):
        fleet = Fleet(pipeline, layout, RECIPE, prior, checkpointing=on)
        needed.append(fleet.memory_per_model(images["person-0"]))
        trained.append(fleet.train(images)[0])
    assert needed[1] < needed[0] / 2
    assert (trained[1] - trained[0]).norm() < WITHIN * (trained[0] - fleet.initial).norm()


def test_gradients_survive_half_precision(whole, images, prior, monkeypatch):
    """Truth: the same fleet in fp32; without a scaled loss, small gradients are lost in fp16."""

    def trained(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        base = open_base(whole, dtype, "cpu")
        fleet = Fleet(base, AdapterLayout.of(base.unet, fingerprint(base), "paper", rank=1, alpha=3), RECIPE, prior)
        return fleet.train(images)[0], fleet.initial

    exact, initial = trained(torch.float32)
    scaled, _ = trained(torch.float16)
    monkeypatch.setattr(precision, "FP16_SCALE", 1.0)
    unscaled, _ = trained(torch.float16)
    assert (scaled - exact).norm() < 0.5 * (unscaled - exact).norm() < 0.1 * (exact - initial).norm()


def test_somebody_who_diverges_stops_nobody_else_and_is_named(pipeline, layout, images, prior, tmp_path):
    fleet = Fleet(pipeline, layout, RECIPE, prior)
    dataset = fleet.dataset(tmp_path)
    sick = images | {"person-0": images["person-0"] * 1e30}  # its squares are no numbers of fp32
    for _ in range(2):
        with pytest.raises(ValueError, match="weights of person-0 became NaN or infinite; all others are finished"):
            fleet.train_all(sick, dataset, fleet_size=2)
        assert sorted(dataset.ids) == ["person-1", "person-2"]
    fleet.train_all(images, dataset)
    assert sorted(dataset.ids) == list(images)


def test_rows_that_learned_other_pictures_are_not_taken_for_finished(pipeline, layout, images, prior, tmp_path):
    fleet = Fleet(pipeline, layout, RECIPE, prior)
    dataset = fleet.dataset(tmp_path)
    seen = {identity: f"pictures of {identity}" for identity in images}
    fleet.train_all(images, dataset, pictures=seen)
    assert dataset.pictures() == seen
    fleet.train_all(images, dataset, pictures=seen)
    with pytest.raises(ValueError, match="1 finished people, person-1, learned other pictures"):
        fleet.train_all(images, dataset, pictures=seen | {"person-1": "others"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 0}, "steps: Input should be greater than or equal to 1, found 0"),
        ({"instance_batch": 0}, "instance_batch: Input should be greater than or equal to 1"),
        ({"learning_rate": 0.0}, "learning_rate: Input should be greater than 0"),
        ({"learning_rate": float("nan")}, "learning_rate: Input should be a finite number"),
        ({"prior_batch": 0}, "prior_batch is 0"),
        ({"timesteps": (500, 500)}, "expected a first one and a later end"),
        ({"timesteps": ("0", "10")}, "timesteps.0: Input should be a valid integer, found '0'"),
        ({"timesteps": (0, 1001)}, "timesteps.1: Input should be less than or equal to 1000"),
        ({"lr_scheduler": "liner"}, "lr_scheduler: Input should be 'constant', 'linear'.*found 'liner'"),
        (
            {"initialisation": "zero"},
            "initialisation: Input should be 'random', 'variance', 'contrast' or",
        ),
        ({"seed": 2**32}, "seed: Input should be less than or equal to 4294967295"),
        ({"stepz": 5}, "no setting 'stepz', did you mean 'steps'"),
    ],
)
def test_recipes_that_cannot_be_followed(change, said):
    with pytest.raises(ValueError, match=f"^FleetRecipe: .*{said}") as refused:
        FleetRecipe(**RECIPE.to_dict() | change)
    assert "\n" not in str(refused.value)
    replace(RECIPE, prior_weight=0.0, prior_batch=0)


def test_a_run_resumes_where_it_was_interrupted(pipeline, layout, images, prior, tmp_path):
    fleet = Fleet(pipeline, layout, RECIPE, prior)
    whole, part = fleet.dataset(tmp_path / "whole"), fleet.dataset(tmp_path / "part")
    fleet.train_all(images, whole, fleet_size=2)
    fleet.train_all({"person-1": images["person-1"]}, part)
    (part.folder / ".0123456789ab.partial.safetensors").write_bytes(b"half a shard, as kill -9 leaves it")
    fleet.train_all(images, fleet.dataset(tmp_path / "part"), fleet_size=1)
    ids = list(images)
    assert part.ids == whole.ids == sorted(ids) and not list(part.folder.glob("*.partial*"))
    assert (part.weights(ids) - whole.weights(ids)).norm() < WITHIN * (whole.weights(ids) - fleet.initial).norm()
    whole.verify()
    seconds = whole.seconds()
    assert sorted(seconds) == ids and all(0 < own < 60 for own in seconds.values())
    assert seconds["person-0"] == seconds["person-1"] != seconds["person-2"]  # two groups


def test_a_run_starts_from_the_stored_vector_or_not_at_all(pipeline, layout, images, prior, tmp_path):
    fleet = Fleet(pipeline, layout, replace(RECIPE, initialisation="contrast"), prior)
    dataset, computed = fleet.dataset(tmp_path), fleet.initial
    fleet.initial = computed * (1 + 1e-5)  # as another machine rounds
    fleet.train_all({"person-0": images["person-0"]}, dataset)
    assert torch.equal(fleet.initial, computed)
    fleet.initial = -computed
    with pytest.raises(ValueError, match="made with another starting vector: move the folder away to train these"):
        fleet.train_all(images, dataset)
    with pytest.raises(ValueError, match="another starting vector"):
        fleet.dataset(tmp_path)


def test_a_dataset_of_another_recipe_precision_or_base_is_refused(pipeline, layout, images, prior, tmp_path):
    fleet = Fleet(pipeline, layout, RECIPE, prior)
    dataset = fleet.dataset(tmp_path, {"prior_images": 6})
    with pytest.raises(ValueError, match=r"another fine-tuning recipe \(steps: 5 there, 6 here\)"):
        Fleet(pipeline, layout, replace(RECIPE, steps=6), prior).train_all(images, dataset)
    with pytest.raises(ValueError, match=r"another fine-tuning recipe \(prior_images: 6 there, 7 here\)"):
        fleet.dataset(tmp_path, {"prior_images": 7})
    with pytest.raises(ValueError, match="steps: settings of the recipe"):
        fleet.dataset(tmp_path, {"steps": 6})
    fleet.dtype = torch.bfloat16
    with pytest.raises(ValueError, match=r"another precision \(float32 there, bfloat16 here\)"):
        fleet.train_all(images, dataset)
    assert not dataset.ids


def test_what_cannot_be_trained_is_refused_before_anything_happens(
    pipeline, layout, images, prior, tmp_path, unchecked
):
    fleet = Fleet(pipeline, layout, RECIPE, prior)
    dataset, own = fleet.dataset(tmp_path), images["person-0"]
    for latents, settings, said in (
        ({}, {}, "no identities to train"),
        ({"a": own[:0]}, {}, r"a: latents of shape \(0, 4, 8, 8\); expected at least 1 of shape \(4, 8, 8\)"),
        ({"a": own[:, :3]}, {}, r"a: latents of shape \(4, 3, 8, 8\)"),
        ({"a": own[..., :6]}, {}, r"a: latents of shape \(4, 4, 8, 6\)"),
        ({"a": own, "b": own * torch.nan}, {}, "b: latents hold NaN or infinite numbers"),
        (
            {"a": own.long()},
            {},
            "a: latents: expected a tensor of floating-point numbers, found a tensor of torch.int64",
        ),
        ({"": own}, {}, "identity '': expected a non-empty text"),
        ({"a\nb": own}, {}, r"identity 'a\\nb': expected .* without control characters"),
        ({"a\udcff": own}, {}, r"identity 'a\\udcff'"),
        ({"a": own.numpy()}, {}, "a: latents: expected a tensor of floating-point numbers, found ndarray"),
        (list(images.values()), {}, "latents: expected Mapping, found list"),
        (images, {"pictures": ["x"]}, "pictures: expected Mapping, found list"),
        (images, {"pictures": {"person-0": 5}}, "pictures of person-0: expected their fingerprints"),
        (images, {"fleet_size": 0}, "fleet_size: expected a whole number of at least 1, found 0"),
        (images, {"fleet_size": 1.5}, "fleet_size: expected a whole number"),
        (images, {"workers": 0}, "workers: expected a whole number of at least 1, found 0"),
    ):
        with pytest.raises(ValueError, match=said) as refused:
            fleet.train_all(latents, dataset, **settings)
        assert "\n" not in str(refused.value)
    for bad, said in (
        (prior[:0], "class pictures: latents of shape"),
        (prior * torch.inf, "class pictures: latents hold"),
        (prior.numpy(), "class pictures: expected a tensor of floating-point numbers, found ndarray"),
        ((10 * prior).to(torch.uint8), "class pictures: .* found a tensor of torch.uint8"),
    ):
        with pytest.raises(ValueError, match=said):
            Fleet(pipeline, layout, RECIPE, bad)
    for wrong, said in (
        ((pipeline.unet, layout, RECIPE), "pipeline: expected StableDiffusionPipeline, found UNet2DConditionModel"),
        ((pipeline, RECIPE, layout), "layout: expected AdapterLayout, found FleetRecipe"),
        ((pipeline, layout, RECIPE.to_dict()), "recipe: expected FleetRecipe, found dict"),
        ((pipeline, replace(layout, base="f" * 16), RECIPE), "the layout is of base f{16}, this pipeline is base "),
    ):
        with pytest.raises(ValueError, match=said):
            Fleet(*wrong, prior)
    with pytest.raises(ValueError, match="dataset: expected WeightsDataset, found PosixPath"):
        fleet.train_all(images, tmp_path)
    assert not dataset.ids


def test_odd_identities_are_trained_like_any(pipeline, layout, images, prior, tmp_path):
    fleet = Fleet(pipeline, layout, RECIPE, prior)
    odd = ["../up", "a" * 300, "Zoë 10.30\u202fAM", "😀", "NA", "padding 0", "shard-*", "a" * 299 + "b"]
    dataset = fleet.dataset(tmp_path / "odd")
    fleet.train_all(dict.fromkeys(odd, images["person-0"]), dataset, fleet_size=3)
    dataset.verify()
    assert dataset.ids == sorted(odd) and [path.name for path in tmp_path.iterdir()] == ["odd"]
