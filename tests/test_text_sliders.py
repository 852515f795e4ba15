"""Text sliders against the formula written out with PEFT, alone and in a bank."""

import copy
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from tiny_base import tiny_pipeline
from tiny_fleet import WITHIN
from transformers import get_linear_schedule_with_warmup

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.denoising import stream
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.images import decode
from w2w_lib.models.prompts import encode_prompts
from w2w_lib.models.sampling import Sampling, generate, seed_noise
from w2w_lib.training.slider_recipe import SliderRecipe
from w2w_lib.training.text_sliders import (
    Pool,
    SliderConcept,
    denoised_pool,
    draw_rows,
    slider_losses,
    slider_targets,
    train_text_sliders,
)

RECIPE = SliderRecipe(
    steps=4, batch=4, eta=3.0, learning_rate=2e-3, lr_ratio=4.0, pool_seeds=3, pool_steps=4, at_once=2, seed=5
)
SMILE = SliderConcept("person", "person smiling", "person", ("man", "woman"))
CONCEPTS = {"smile": SMILE, "sex": SliderConcept("a photo of person", "man", "woman")}


@pytest.fixture(scope="module")
def pool(pipeline):
    return denoised_pool(pipeline, "person", RECIPE)


def written_out(pipeline, x, t, concept, eta):
    """The target of Concept Sliders for one picture, prompt by prompt."""

    def predicted(prompt):
        return pipeline.unet(x[None], t[None], encode_prompts(pipeline, [prompt])).sample

    preserved = [f"{name} " for name in concept.preserve] or [""]
    total = 0
    for name in preserved:
        total = total + predicted(name + concept.positive) - predicted(name + concept.negative)
    return predicted(concept.target) + eta * total / len(preserved)


def peft_model(pipeline, layout, row):
    config = LoraConfig(r=layout.rank, lora_alpha=layout.alpha, target_modules=list(layout.targets))
    model = get_peft_model(copy.deepcopy(pipeline.unet), config)
    trained = {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, value in layout.unflatten(row[None]).items():
            trained[name].copy_(value[0])
    return model, trained


def test_the_gradient_is_that_of_the_formula_with_peft(pipeline, layout, pool):
    weights = torch.randn(2, layout.dimension, generator=torch.Generator().manual_seed(1)).mul(0.2).requires_grad_()
    seeds, steps = torch.tensor([0, 2, 1, 1]), torch.tensor([0, 3, 1, 2])
    x, t = pool.noisy[seeds, steps], pool.timesteps[steps]
    targets = slider_targets(pipeline, SMILE, pool, RECIPE)[seeds, steps]
    texts = encode_prompts(pipeline, ["person"]).expand(4, -1, -1)
    losses = slider_losses(pipeline.unet, layout, weights, x, t, texts, targets)
    losses.sum().backward()
    for i, rows in enumerate(([0, 1], [2, 3])):
        model, trained = peft_model(pipeline, layout, weights[i].detach())
        expected = torch.cat([written_out(pipeline, x[k], t[k], SMILE, RECIPE.eta) for k in rows])
        loss = (model(x[rows], t[rows], texts[rows]).sample - expected).square().mean()
        loss.backward()
        gradient = layout.flatten({name: p.grad for name, p in trained.items()})
        torch.testing.assert_close(losses[i], loss, rtol=1e-4, atol=1e-7)
        assert (weights.grad[i] - gradient).norm() < 1e-4 * gradient.norm()


def test_a_bank_trains_the_sliders_that_peft_trains_one_by_one(pipeline, layout):
    together = train_text_sliders(pipeline, layout, CONCEPTS, RECIPE, progress=False)
    for i, (name, concept) in enumerate(CONCEPTS.items()):
        alone = train_text_sliders(pipeline, layout, {name: concept}, RECIPE, progress=False)[0]
        sequential = with_peft(pipeline, layout, name, concept)
        moved = (sequential - layout.initial(RECIPE.seed)).norm()
        assert moved > 0.01
        for other in (alone, together[i]):
            assert (other - sequential).norm() < WITHIN * moved
    assert (together[0] - together[1]).norm() > WITHIN * moved


def with_peft(pipeline, layout, name, concept):
    """As users of PEFT would write it: one model, one loop, every target computed when it is needed."""
    model, trained = peft_model(pipeline, layout, layout.initial(RECIPE.seed))
    optimizer = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=RECIPE.learning_rate, loraplus_lr_ratio=RECIPE.lr_ratio,
        loraplus_weight_decay=RECIPE.weight_decay,
    )  # fmt: skip
    schedule = get_linear_schedule_with_warmup(optimizer, 0, RECIPE.steps)
    pool, rng = denoised_pool(pipeline, concept.target, RECIPE), stream(RECIPE.seed, name)
    text = encode_prompts(pipeline, [concept.target])
    for _ in range(RECIPE.steps):
        x, t, _ = draw_rows(rng, pool, pool.noisy, RECIPE.batch)
        wanted = torch.cat([written_out(pipeline, one, at, concept, RECIPE.eta) for one, at in zip(x, t, strict=True)])
        optimizer.zero_grad()
        (model(x, t, text.expand(len(x), -1, -1)).sample - wanted).square().mean().backward()
        optimizer.step()
        schedule.step()
    return layout.flatten({n: p.detach() for n, p in trained.items()})


def test_the_pool_is_what_the_base_denoises(pipeline, pool):
    """Each state leads on to the next by a DDIM step of the guided prediction, the last to the finished picture."""
    assert pool.noisy.shape == (3, 4, 4, 8, 8) and pool.timesteps.tolist() == [999, 749, 499, 249]
    torch.testing.assert_close(pool.noisy[:, 0], seed_noise(pipeline, range(3)))
    empty, person = (encode_prompts(pipeline, [p]).expand(3, -1, -1) for p in ("", "person"))
    signal = pipeline.scheduler.alphas_cumprod
    for i, (t, following) in enumerate([(999, 749), (749, 499), (499, 249), (249, None)]):
        x = pool.noisy[:, i]
        unguided, prompted = (pipeline.unet(x, torch.tensor(t), text).sample for text in (empty, person))
        v = unguided + RECIPE.guidance * (prompted - unguided)
        torch.testing.assert_close(pool.predicted[:, i], prompted, rtol=1e-4, atol=1e-5)
        clean = signal[t] ** 0.5 * x - (1 - signal[t]) ** 0.5 * v
        noise = signal[t] ** 0.5 * v + (1 - signal[t]) ** 0.5 * x
        if following is not None:
            after = signal[following] ** 0.5 * clean + (1 - signal[following]) ** 0.5 * noise
            torch.testing.assert_close(pool.noisy[:, i + 1], after, rtol=1e-4, atol=1e-4)
    painted = generate(pipeline, ["person"] * 3, range(3), sampling=Sampling(steps=4, guidance=RECIPE.guidance))
    assert abs(decode(pipeline, clean).astype(int) - painted).max() <= 1


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_a_slider_lowers_its_own_loss(kind):
    pipeline = tiny_pipeline()
    pipeline.unet.to(memory_format=torch.channels_last)  # as `open_base` has it on a CPU
    snr = {"rescale_betas_zero_snr": kind == "v_prediction"}
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, prediction_type=kind, **snr)
    layout = AdapterLayout.of(pipeline.unet, fingerprint(pipeline))
    recipe = replace(RECIPE, steps=20, learning_rate=1e-2, batch=8)
    pool = denoised_pool(pipeline, "person", recipe)
    targets = slider_targets(pipeline, SMILE, pool, recipe).flatten(0, 1)
    x, t = pool.noisy.flatten(0, 1), pool.timesteps.repeat(3)
    texts = encode_prompts(pipeline, ["person"]).expand(len(x), -1, -1)
    trained = train_text_sliders(pipeline, layout, {"smile": SMILE}, recipe, progress=False)
    start = layout.initial(recipe.seed)[None]
    before, after = (slider_losses(pipeline.unet, layout, w, x, t, texts, targets) for w in (start, trained))
    assert after < 0.8 * before


def test_rows_are_spread_over_the_steps():
    numbered = torch.arange(6.0).view(2, 3, 1, 1, 1)
    pool = Pool(numbered, numbered, torch.tensor([999, 666, 333]))
    x, t, wanted = draw_rows(torch.Generator().manual_seed(0), pool, -pool.noisy, 300)
    assert torch.equal(wanted, -x) and torch.equal(t, pool.timesteps[x.flatten().long() % 3])
    assert [int((t == own).sum()) for own in pool.timesteps] == [100] * 3
    assert 100 < (x >= 3).sum() < 200


def test_what_cannot_be_trained(pipeline, layout, unchecked):
    other = replace(layout, base="another")
    for arguments, said in (
        ((None, layout, CONCEPTS, RECIPE), "pipeline: expected a base that `open_base` opened, found None"),
        ((pipeline, other, CONCEPTS, RECIPE), "the layout is of base another.*open that base"),
        ((pipeline, layout, {}, RECIPE), "concepts: expected at least one SliderConcept"),
        ((pipeline, layout, [SMILE], RECIPE), "concepts: expected a dictionary of SliderConcept by name"),
        ((pipeline, layout, {"smile": "smiling"}, RECIPE), "concept 'smile': expected SliderConcept, found 'smiling'"),
        ((pipeline, layout, {1: SMILE}, RECIPE), "name of a concept: expected a text, found 1"),
        ((pipeline, layout, CONCEPTS, {}), "recipe: expected SliderRecipe"),
        ((pipeline, layout, CONCEPTS, replace(RECIPE, learning_rate=1e30)), "smile.* became NaN or infinite: lower"),
    ):
        with pytest.raises(ValueError, match=said):
            train_text_sliders(*arguments, progress=False)
    for wrong, said in (
        ({"target": ""}, "SliderConcept: target"),
        ({"negative": "person smiling"}, "positive and negative are both 'person smiling', expected two prompts"),
        ({"preserve": "man"}, "SliderConcept: preserve"),
        ({"preserve": ("man", 3)}, "SliderConcept: preserve.1"),
    ):
        with pytest.raises(ValueError, match=said):
            replace(SMILE, **wrong)
    for wrong in ({"steps": 0}, {"eta": 0.0}, {"guidance": -1.0}, {"pool_steps": 1001}, {"lr_scheduler": "no"}):
        with pytest.raises(ValueError, match=f"SliderRecipe: {next(iter(wrong))}"):
            replace(RECIPE, **wrong)
