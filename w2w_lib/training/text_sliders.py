"""Concept Sliders (Gandikota et al. 2023, §4): adapters trained on contrasting prompts alone, one an attribute."""

from collections.abc import Mapping
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from diffusers.optimization import get_scheduler
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from tqdm import tqdm

from w2w_lib.inputs import checked, instance, some
from w2w_lib.lora.batched import apply_adapters
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.denoising import stream
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.precision import loss_scale
from w2w_lib.models.prompts import encode_prompts
from w2w_lib.models.sampling import seed_noise
from w2w_lib.models.schedule import prediction_type
from w2w_lib.training.slider_recipe import SliderRecipe

Prompt = Annotated[str, Field(min_length=1)]


@checked
class SliderConcept:
    """What a slider changes: pictures of ``target`` become more ``positive`` and less ``negative``, all three prompts.

    ``preserve`` names what is to stay as it is, such as ("man", "woman"): each is put before ``positive`` and
    ``negative``, and their difference is averaged over them.
    """

    target: Prompt
    positive: Prompt
    negative: Prompt
    preserve: tuple[Prompt, ...] = ()

    def __post_init__(self):
        if self.positive == self.negative:
            raise ValueError(f"SliderConcept: positive and negative are both {self.positive!r}, expected two prompts")

    def contrasts(self) -> list[tuple[str, str]]:
        """Positive and negative prompt, after each thing to preserve."""
        before = [f"{name} " for name in self.preserve] or [""]
        return [(f"{own}{self.positive}", f"{own}{self.negative}") for own in before]


class Pool(NamedTuple):
    """Pictures of a prompt by the base itself, noisy as they were before every step, and what it predicts of them."""

    noisy: Float[Tensor, "seeds steps channels height width"]
    predicted: Float[Tensor, "seeds steps channels height width"]  # for the prompt alone, without guidance
    timesteps: Int[Tensor, " steps"]


@torch.no_grad()
def denoised_pool(pipeline: StableDiffusionPipeline, prompt: str, recipe: SliderRecipe) -> Pool:
    """Partly denoised pictures of ``prompt`` by the base alone, of seeds 0 to ``recipe.pool_seeds``, on the CPU.

    A row drawn from it at random is a picture that the base has denoised to a random timestep (Gandikota et al. 2023,
    §4.1); to sample anew for every training step would cost some ten passes through the UNet for each row.
    """
    parts = []
    for first in range(0, recipe.pool_seeds, recipe.at_once):
        seeds = range(recipe.pool_seeds)[first : first + recipe.at_once]
        states = [seed_noise(pipeline, seeds).to(pipeline.device)]

        def keep(pipeline, step: int, timestep: Tensor, tensors: dict, states: list[Tensor] = states) -> dict:
            states.append(tensors["latents"].float())
            return tensors

        pipeline(
            prompt_embeds=encode_prompts(pipeline, [prompt] * len(seeds)),
            negative_prompt_embeds=encode_prompts(pipeline, [""] * len(seeds)),
            latents=states[0],
            num_inference_steps=recipe.pool_steps,
            guidance_scale=recipe.guidance,
            output_type="latent",
            callback_on_step_end=keep,
        )
        parts.append(torch.stack(states[:-1], 1).cpu())  # the last is the finished picture
    noisy, timesteps = torch.cat(parts), pipeline.scheduler.timesteps.cpu().clone()
    return Pool(noisy, _predict(pipeline, prompt, noisy, timesteps, recipe.at_once), timesteps)


@torch.no_grad()
def slider_targets(
    pipeline: StableDiffusionPipeline, concept: SliderConcept, pool: Pool, recipe: SliderRecipe
) -> Float[Tensor, "seeds steps channels height width"]:
    """What a slider should predict of all the pool: ε(target) + η · mean of (ε(positive) − ε(negative)), on the CPU.

    Gandikota et al. 2023, eq. 8, all predictions by the frozen base. For a base that predicts v, ε stands for its v: at
    a given x_t, v = (ε − σ x_t) / α is linear in ε, the coefficients of the formula's terms in x_t cancel, so that the
    formula is the same and its squared error changes by the factor 1 / α² of the timestep alone; at zero terminal SNR,
    where α is 0, only v is defined.
    """

    def predicted(prompt: str) -> Tensor:
        return _predict(pipeline, prompt, pool.noisy, pool.timesteps, recipe.at_once)

    contrasts = [predicted(positive) - predicted(negative) for positive, negative in concept.contrasts()]
    return pool.predicted + recipe.eta * torch.stack(contrasts).mean(0)


def slider_losses(
    unet: nn.Module,
    layout: AdapterLayout,
    weights: Float[Tensor, "sliders d"],
    noisy: Float[Tensor, "batch channels height width"],
    timesteps: Int[Tensor, " batch"],
    texts: Float[Tensor, "batch tokens text_width"],
    targets: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, " sliders"]:
    """Mean squared error of each slider's predictions on its own equal share of the rows, differentiable in weights.

    ValueError where the sliders do not divide the rows.
    """
    dtype = next(unet.parameters()).dtype
    with apply_adapters(unet, layout, weights, max(1, len(noisy) // len(weights))):
        prediction = unet(noisy.to(dtype), timesteps, texts.to(dtype)).sample
    errors = F.mse_loss(prediction.float(), targets, reduction="none")
    return errors.mean((1, 2, 3)).view(len(weights), -1).mean(1)


def train_text_sliders(
    pipeline: StableDiffusionPipeline,
    layout: AdapterLayout,
    concepts: Mapping[str, SliderConcept],
    recipe: SliderRecipe | None = None,
    progress: bool = True,
) -> Float[Tensor, "sliders d"]:
    """One adapter for each concept by name, in their order, on the CPU (Gandikota et al. 2023, §4).

    No person's adapter and no picture takes part: sliders are applied on top of adapters (``w2w_lib.lora.stacked``).
    All start from PEFT's random A and B = 0 and are trained side by side; losses are summed, and each name has its own
    random stream, so that a slider does not depend on those beside it, up to rounding. What the base predicts is
    computed for the whole pool before the first step: memory for ``pool_seeds * pool_steps`` latents, twice for each
    target prompt and once for each slider. ValueError for a layout of another base, no concepts, more steps of sampling
    than the base has timesteps, and sliders that become NaN or infinite.
    """
    recipe = SliderRecipe() if recipe is None else recipe
    _check(pipeline, layout, concepts, recipe)
    prompts = dict.fromkeys(concept.target for concept in concepts.values())
    pools = {prompt: denoised_pool(pipeline, prompt, recipe) for prompt in prompts}
    targets = {
        name: slider_targets(pipeline, concept, pools[concept.target], recipe)
        for name, concept in tqdm(concepts.items(), desc="what the base predicts", unit="slider", disable=not progress)
    }
    texts = encode_prompts(pipeline, [c.target for c in concepts.values()]).repeat_interleave(recipe.batch, 0)
    streams = [stream(recipe.seed, name) for name in concepts]
    down = torch.cat([torch.full((factor.size,), factor.is_down) for factor in layout.factors])
    start, device = layout.initial(recipe.seed), pipeline.device
    halves = [start[half].repeat(len(concepts), 1).to(device).requires_grad_() for half in (down, ~down)]  # A, B
    in_order = torch.cat([down.nonzero(), (~down).nonzero()]).flatten().argsort().to(device)
    optimizer = torch.optim.AdamW(
        [{"params": halves[:1]}, {"params": halves[1:], "lr": recipe.learning_rate * recipe.lr_ratio}],
        recipe.learning_rate,
        weight_decay=recipe.weight_decay,
    )
    schedule = get_scheduler(recipe.lr_scheduler, optimizer, num_warmup_steps=0, num_training_steps=recipe.steps)
    scale = loss_scale(pipeline.unet)
    with tqdm(range(recipe.steps), desc="sliders", unit="step", disable=not progress) as bar:
        for _ in bar:
            rows = [
                draw_rows(rng, pools[concept.target], targets[name], recipe.batch)
                for rng, (name, concept) in zip(streams, concepts.items(), strict=True)
            ]
            noisy, timesteps, wanted = (torch.cat(column).to(device) for column in zip(*rows, strict=True))
            optimizer.zero_grad()
            weights = torch.cat(halves, 1)[:, in_order]
            losses = slider_losses(pipeline.unet, layout, weights, noisy, timesteps, texts, wanted)
            (scale * losses.sum()).backward()
            for half in halves:
                half.grad.div_(scale)
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{losses.mean().item():.4f}", refresh=False)
    weights = torch.cat(halves, 1)[:, in_order].detach().cpu()
    if lost := [name for name, row in zip(concepts, weights, strict=True) if not row.isfinite().all()]:
        raise ValueError(f"sliders {some(lost)} became NaN or infinite: lower the learning rate")
    return weights


def draw_rows(
    rng: torch.Generator, pool: Pool, targets: Float[Tensor, "seeds steps channels height width"], count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """``count`` random pictures of a pool, their timesteps spread evenly over all, with timesteps and targets."""
    seeds = torch.randint(len(pool.noisy), (count,), generator=rng)
    strata = (torch.arange(count) + torch.rand(count, generator=rng)) / count
    steps = (strata * len(pool.timesteps)).long().clamp(max=len(pool.timesteps) - 1)
    return pool.noisy[seeds, steps], pool.timesteps[steps], targets[seeds, steps]


def _predict(pipeline: StableDiffusionPipeline, prompt: str, noisy: Tensor, timesteps: Tensor, at_once: int) -> Tensor:
    """What the base alone predicts of a pool, noise or velocity, on the CPU in fp32."""
    text, dtype, device = encode_prompts(pipeline, [prompt]), next(pipeline.unet.parameters()).dtype, pipeline.device
    rows = zip(noisy.flatten(0, 1).split(at_once), timesteps.repeat(len(noisy)).split(at_once), strict=True)
    parts = [
        pipeline.unet(x.to(device, dtype), t.to(device), text.to(dtype).expand(len(x), -1, -1)).sample.float().cpu()
        for x, t in rows
    ]
    return torch.cat(parts).view_as(noisy)


def _check(
    pipeline: StableDiffusionPipeline,
    layout: AdapterLayout,
    concepts: Mapping[str, SliderConcept],
    recipe: SliderRecipe,
) -> None:
    instance("pipeline", pipeline, StableDiffusionPipeline, "a base that `open_base` opened")
    instance("layout", layout, AdapterLayout)
    instance("recipe", recipe, SliderRecipe)
    instance("concepts", concepts, Mapping, "a dictionary of SliderConcept by name")
    if not concepts:
        raise ValueError("concepts: expected at least one SliderConcept, found none")
    for name, concept in concepts.items():
        instance("name of a concept", name, str, "a text")
        instance(f"concept {name!r}", concept, SliderConcept)
    if (found := fingerprint(pipeline)) != layout.base:
        raise ValueError(f"the layout is of base {layout.base}, this pipeline is base {found}: open that base")
    prediction_type(pipeline.scheduler)
    if recipe.pool_steps > (most := pipeline.scheduler.config.num_train_timesteps):
        raise ValueError(
            f"SliderRecipe: pool_steps {recipe.pool_steps}, expected at most {most}, this base's timesteps"
        )
