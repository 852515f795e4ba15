"""What the profiles with Stable Diffusion 1.5 ask of a GPU's owner, by arithmetic: the table of the README.

    python benchmarks/budget.py            # a few seconds, no GPU

For each notebook the rows that go through the UNet are counted from the profile's settings, in the order of its cells:
a picture takes one row for each step, two with guidance, and one decoding. FLOPs of a row are counted by PyTorch on a
UNet of the real size without numbers. Hours follow from an assumed share of the card's peak, which `benchmarks/gpu.py`
measures. Not counted: compiling, detecting faces, training judges, the start of a recipe other than `random`. Where a
notebook chooses between settings, the dearest one is taken.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch.utils.flop_counter import FlopCounterMode

from w2w_lib.lora.batched import apply_adapters
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.sampling import Sampling
from w2w_lib.space.inversion_recipes import RECIPES, InversionRecipe
from w2w_lib.space.subsets import conditions
from w2w_lib.workbook.sections import Finetune, Profile
from w2w_lib.workbook.settings import load

SHARES = 0.25, 0.45  # of the peak that is reached; assumed
CARDS = {"RTX 4090": (165e12, 82e12), "H100": (989e12, 67e12)}  # dense bf16 and fp32, also for the VAE; TF32 is faster
PARAMETERS = {"UNet": 859_520_964, "VAE": 83_653_863, "text encoder": 123_060_480}
RELEASE_GB = {"V.pt": 3.99, "proj_1000pc.pt": 0.26, "identity_df.pt": 0.04}  # all_weights.pt, 25.9, is not needed
RELEASE_MODELS, RELEASE_WIDTH = 64_974, 99_648
ENVIRONMENT_GB = {
    "downloads": 3.6,
    "disk": 7.5,
}  # the wheels of uv.lock by their size, with PyTorch for CUDA; on disk estimated
WORKSPACE_GIB = 2.5  # CUDA's context, kernels' workspaces, a picture in the VAE; estimated
FRESH = 16  # noised copies in 09's loss on fresh noise


@dataclass(frozen=True)
class Passes:
    """Rows through the UNet, without gradient and with it (also: computed twice for memory; in fp32), and pictures."""

    forward: int = 0
    trained: int = 0
    checkpointed: int = 0
    exact: int = 0
    decoded: int = 0
    encoded: int = 0

    def __add__(self, other: "Passes") -> "Passes":
        return Passes(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __radd__(self, zero: int) -> "Passes":
        return self  # for `sum`

    def __rmul__(self, times: int) -> "Passes":
        return Passes(*(times * a for a in astuple(self)))


def pictures(count: int, sampling: Sampling) -> Passes:
    return Passes(forward=count * sampling.steps * (2 if sampling.guidance > 1 else 1), decoded=count)


def fine_tuned(people: int, finetune: Finetune, kind: str | None = None, **changes) -> Passes:
    recipe = vars(finetune.recipe) | changes
    rows = recipe["instance_batch"] + (recipe["prior_batch"] if recipe["prior_weight"] else 0)
    return Passes(**{kind or kind_of(finetune): people * recipe["steps"] * rows})


def kind_of(finetune: Finetune) -> str:
    return "checkpointed" if finetune.checkpointing else "trained"


def inverted(people: int, recipe: InversionRecipe, steps: int | None = None) -> Passes:
    return Passes(trained=people * (steps or recipe.steps) * recipe.batch)


def class_pictures(finetune: Finetune, sampling: Sampling | None = None) -> Passes:
    count = finetune.prior_images
    return pictures(count, sampling or finetune.evaluate.sampling) + Passes(encoded=count)


def own_people(profile: Profile) -> bool:
    return profile.people.own or profile.people.sets.source is not None


def finetune(profile: Profile) -> Passes:
    """02: the fleet of all people, and its evaluation on held-out ones."""
    f, e, sets = profile.finetune, profile.finetune.evaluate, profile.people.sets
    everybody, few, each = sets.train + sets.heldout, e.sweep_people, e.people * e.images
    sizes = [size for size in e.timed_sizes if size <= f.fleet_size]
    again = sum(fine_tuned(e.people, f, **change) for change in trainings(e.again))
    sweep = sum(fine_tuned(few, f, **change) for change in trainings(e.sweep))
    painted = e.watched * (1 + len(e.watched_at)) * e.images + each * (2 + len(e.again))
    painted += 3 * few * e.class_images + few * min(e.sweep_images, e.images) * (len(e.sweep) + 1)
    return (
        class_pictures(f)
        + Passes(encoded=everybody * sets.views)
        + fine_tuned(2 * min(4, sets.train), f, "exact", steps=e.check_steps)
        + fine_tuned(sum(sizes) + f.fleet_size, f, steps=e.timed_steps)
        + fine_tuned(3 + len(e.again), f, steps=1)  # what a step takes of the memory
        + fine_tuned(e.watched + everybody, f)
        + again
        + fine_tuned(few, f, prior_weight=0.0 if f.recipe.prior_weight else 1.0)
        + sweep
        + fine_tuned(few, f, "exact")
        + pictures(painted, e.sampling)
    )


def trainings(changes) -> list[dict]:
    """Of changed recipes, what changes the number of rows."""
    known = ("steps", "instance_batch", "prior_batch", "prior_weight")
    return [{name: value for name, value in one.items() if name in known} for one in changes.values()]


def space(profile: Profile) -> Passes:
    """03: sampled people, their neighbours, people outside the space, held-out ones with some components."""
    s = profile.space
    levels = len({min(m, s.components) for m in s.counts}) + 2
    return pictures((2 * s.samples + min(s.pictured, s.samples) + levels * s.heldout) * s.images, s.sampling)


def edit(profile: Profile) -> Passes:
    """04: strips, edits of everybody by three methods and a random one, milder edits, several at once, delayed ones."""
    s = profile.edit
    edits = len(s.attributes) * s.people
    painted = len(s.attributes) * len(s.strengths) + s.people + edits * (4 + 3 * len(s.milder))
    return pictures(painted + (2 + len(s.compose)) * s.columns + len(s.inject_below) + 1, s.sampling)


def invert(profile: Profile) -> Passes:
    """05: inversion and DreamBooth: choices, the comparison, the trade-off of time, numbers of components."""
    s, f, sets = profile.invert, profile.finetune, profile.people.sets
    longest, recipe, quick = max(s.dreambooth_steps), s.recipe, s.quick
    val = fine_tuned(2 * s.val, f, steps=sum(s.dreambooth_steps)) + inverted(s.val, RECIPES["paper"], s.paper_steps)
    val += inverted(s.val, recipe) + inverted(s.val, quick)
    compared = fine_tuned(2 * len(s.seeds) * s.people, f, steps=longest)
    compared += inverted((2 * len(s.seeds) + 1) * s.people, quick)  # and the hero's
    of_each = fine_tuned(2, f, steps=longest) + inverted(1, recipe) + inverted(1, quick)  # together, then one alone
    of_a_step = fine_tuned(2, f, steps=1) + inverted(1, recipe, 1) + inverted(1, quick, 1)
    traded = inverted(s.timed, recipe, sum(s.plain_steps)) + inverted(s.timed, quick, sum(s.quick_steps))
    counted = inverted(s.counted * len(s.counts), recipe, max(s.plain_steps))
    models = s.people + s.val * (2 * len(s.dreambooth_steps) + 3) + s.people * (4 * len(s.seeds) + 3) + 1
    points = len({*s.plain_steps, recipe.steps}) + len({*s.quick_steps, quick.steps}) + 3
    models += s.timed * points + s.counted * len(s.counts)
    return (
        class_pictures(f)
        + Passes(encoded=sets.heldout * sets.views + sets.train * min(s.start_views, sets.views))
        + (val + compared + (s.timed + 1) * of_each + 3 * of_a_step + traded + counted)
        + pictures(models * s.images + len(s.edits) * s.pictured + 4, s.sampling)
    )


def judge(profile: Profile) -> Passes:
    """06: sliders by text, and the comparison of edits; adapters of changed people only of rendered ones."""
    s, f, views, count = profile.judge, profile.finetune, profile.people.sets.views, len(profile.judge.attributes)
    slider, pool = s.slider, s.slider.pool_seeds * s.slider.pool_steps
    contrasts = sum(2 if a == "Male" else 4 for a in s.attributes)  # prompts; of the others, for men and women
    passes = Passes(forward=pool * ((2 if slider.guidance > 1 else 1) + 1 + contrasts))
    passes += Passes(trained=count * slider.steps * slider.batch)
    if not own_people(profile):
        people = s.validation + count * s.oracles
        passes += fine_tuned(people, f, "trained") + Passes(encoded=people * views)
        passes += pictures(count * s.oracles * s.images, s.sampling)
    painted = s.people * s.images + s.validation * (1 + count * len(s.methods) * len(s.shares)) + 5 * len(s.pictured)
    painted += count * s.images * ((len(s.reported) + 2) * s.people + s.oracles)
    painted += count * s.swept * (len(s.reported) * len(s.shares) + len(s.slider_shares) + 1)
    painted += s.composed * (len(s.compose) * s.images + len(s.inject_below))
    return class_pictures(f) + passes + pictures(painted, s.sampling)


def scale(profile: Profile) -> Passes:
    """07: spaces of several sizes: inversions, edits, projections, samples; adapters trained in another way."""
    s, f, sets = profile.scale, profile.finetune, profile.people.sets
    largest = min(max(s.sizes), sets.train)

    def spaces(part, repeats: int = 1) -> list[tuple]:
        sizes, counts = ({min(n, m) for n in given} for given, m in ((part.sizes, largest), (part.counts, largest - 1)))
        return conditions(sorted(sizes), sorted(counts), part.fixed, repeats)

    inversions = len({one[1:] for one in spaces(s.inverted)})
    edits = len({one[1:] for one in spaces(s.edited) if one.series != "growing"})
    projections = len({one[1:] for one in spaces(s.projected, s.projected.repeats)})
    sampled = len({one[1:3] for one in spaces(s.sampled)}) + 3 + 3  # distributions, gauges
    between, slid = s.interpolated, s.sliders
    models = s.people * (inversions + projections + 2 + len(f.evaluate.again) + len(s.alternatives) + 3) + 1
    painted = models * s.images + s.edited.people
    painted += edits * len(s.edited.attributes) * s.edited.people * len(s.edited.lengths)
    painted += sampled * s.sampled.models * s.sampled.images
    painted += between.pairs * between.images * (2 + 2 * (len(between.shares) - 2))
    painted += slid.components * min(slid.people, s.people) * len(slid.strengths)
    return (
        class_pictures(f, s.sampling)
        + Passes(encoded=s.people + sets.heldout * sets.views)
        + inverted(s.people * inversions, s.inverted.recipe)
        + sum(fine_tuned(s.people, f, "trained", **change) for change in trainings(s.alternatives))
        + pictures(painted, s.sampling)
    )


def domains(profile: Profile) -> Passes:
    """08: inversion of pictures in other domains, DreamBooth on the same, two photographs, a missing attribute."""
    s, kinds, photos = profile.domains, 1 + len(profile.domains.domains), 2
    val, given = s.val * kinds * len(s.priors), s.people * kinds
    models = val + 2 * given + 1 + photos + 4 * s.wearers
    return (
        class_pictures(profile.finetune)
        + Passes(encoded=val + 2 * given + photos + s.wearers)
        + inverted(val + given + 3 * s.wearers, s.recipe)
        + fine_tuned(given, profile.finetune, steps=s.dreambooth_steps)
        + inverted(photos * len(s.photo_priors), s.photo_recipe)
        + pictures(models * s.images + photos * (len(s.photo_priors) + len(s.edits)), s.sampling)
    )


def release(profile: Profile) -> Passes:
    """09: samples, strips of edits, delayed edits, the inversion of a photograph; of a synthetic release a test."""
    s, planted = profile.release, profile.release.synthetic if profile.release.source is None else None
    painted = 2 + 2 * s.samples * s.images + 2 * len(s.labels) * len(s.strengths)
    painted += 2 + len({0, *s.inject_below, 1000}) + (1 + len(s.labels)) * s.images
    painted += planted.inverted if planted else s.samples
    passes = inverted(len(s.priors) + 1, s.recipe) + Passes(trained=2 * FRESH, encoded=1)
    if planted:
        passes += inverted(planted.inverted, s.recipe, planted.steps)
        passes += Passes(trained=2 * FRESH * planted.inverted, encoded=planted.inverted)
    return passes + pictures(painted, s.sampling)


NOTEBOOKS = {f"{number:02} {one.__name__}": one for number, one in enumerate((finetune, space, edit, invert), 2)}
NOTEBOOKS |= {f"{number:02} {one.__name__}": one for number, one in enumerate((judge, scale, domains, release), 6)}


def passes_of(profile: Profile) -> dict[str, Passes]:
    """Of the notebooks that a profile has."""
    return {name: count(profile) for name, count in NOTEBOOKS.items() if profile.has(name[3:])}


@dataclass(frozen=True)
class Costs:
    """FLOPs of a row through the UNet and of a picture through the VAE; bytes that a row keeps for its gradient."""

    forward: int
    trained: int
    checkpointed: int
    decoded: int
    encoded: int
    kept: int
    kept_checkpointed: int

    def seconds(self, passes: Passes, peak: float, exact: float) -> float:
        """At the card's peaks in bf16 and fp32."""
        names = ("forward", "trained", "checkpointed")
        in_fp32 = passes.exact * self.checkpointed, passes.decoded * self.decoded, passes.encoded * self.encoded
        return sum(getattr(passes, n) * getattr(self, n) for n in names) / peak + sum(in_fp32) / exact


def forward_flops(module: Callable, *inputs: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return counter.get_total_flops()


def training_flops(unet: UNet2DConditionModel, layout: AdapterLayout, *inputs: torch.Tensor) -> int:
    """Of a row forward, and backward to the adapters: the frozen weights take no gradient."""
    weights = torch.zeros(1, layout.dimension, device="meta", requires_grad=True)
    with FlopCounterMode(display=False) as counter, apply_adapters(unet, layout, weights):
        unet(*inputs).sample.float().sum().backward()
    return counter.get_total_flops()


def kept_bytes(unet: UNet2DConditionModel, layout: AdapterLayout, *inputs: torch.Tensor) -> tuple[int, int]:
    """Bytes that a row keeps for its backward pass: in all, and with checkpoints (their inputs, and the largest part).

    Without the matrices of attention, which a GPU's kernel does not keep.
    """
    seen, parts, bytes_kept = {p.untyped_storage()._cdata: p for p in unet.parameters()}, [0], 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        attention = tensor.ndim > 2 and tensor.shape[-1] in (77, tensor.shape[-2]) and tensor.shape[-2] >= 256
        if storage._cdata not in seen and not attention:
            parts[-1] += storage.nbytes()
        seen[storage._cdata] = tensor  # alive, so that no other gets its place
        return tensor

    def begin(module: torch.nn.Module, args: tuple) -> None:
        nonlocal bytes_kept
        bytes_kept += args[0].nbytes
        parts.append(0)

    modules = [m for m in unet.modules() if type(m).__name__ in ("ResnetBlock2D", "Transformer2DModel")]
    handles = [module.register_forward_pre_hook(begin) for module in modules]
    weights = torch.zeros(1, layout.dimension, device="meta", requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), apply_adapters(unet, layout, weights):
        unet(*inputs)
    for handle in handles:
        handle.remove()
    return sum(parts), bytes_kept + max(parts)


def costs_of_stable_diffusion() -> Costs:
    """At 512 pixels, with the adapters of the release's layers."""
    with torch.device("meta"):
        blocks = {"layers_per_block": 2, "block_out_channels": (320, 640, 1280, 1280)}
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8, **blocks)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        )
        row = torch.empty(1, 4, 64, 64), torch.zeros(1), torch.empty(1, 77, 768)
        picture = torch.empty(1, 3, 512, 512)
    for module in (unet, vae):
        module.requires_grad_(False).eval().set_attn_processor(AttnProcessor())
    layout = AdapterLayout.of(unet, "0" * 16, "release")
    decoded, encoded = forward_flops(vae.decode, row[0]), forward_flops(vae.encode, picture)
    half = tuple(t.bfloat16() for t in row)
    unet.bfloat16()
    forward, trained = forward_flops(unet, *half), training_flops(unet, layout, *half)
    kept = kept_bytes(unet, layout, *half)
    unet.enable_gradient_checkpointing()
    return Costs(forward, trained, training_flops(unet, layout, *half), decoded, encoded, *kept)


def largest_batches(profile: Profile) -> dict[str, tuple[int, bool]]:
    """Rows that a notebook trains at once, and whether with checkpoints; 02 plans its own by the free memory."""
    found = {}
    if profile.has("finetune"):
        f, inverted_by = profile.finetune, profile.scale.inverted.recipe
        of_one = f.recipe.instance_batch + (f.recipe.prior_batch if f.recipe.prior_weight else 0)
        found["02, one adapter"] = (of_one, f.checkpointing)
        found["05 and 08, DreamBooth"] = (f.fleet_size * of_one, f.checkpointing)
        found["05, inversion"] = (profile.invert.recipe.at_once * profile.invert.recipe.batch, False)
        found["06, sliders"] = (len(profile.judge.attributes) * profile.judge.slider.batch, False)
        found["07, inversion"] = (min(inverted_by.at_once, profile.scale.people) * inverted_by.batch, False)
        found["07, other adapters"] = (min(f.fleet_size, profile.scale.people) * of_one, False)
        found["08, inversion"] = (profile.domains.recipe.at_once * profile.domains.recipe.batch, False)
    if profile.has("release"):
        found |= {"09, inversion": (profile.release.recipe.batch, False), "09, fresh noise": (FRESH, False)}
    return found


def gpu_memory(profile: Profile, costs: Costs) -> float:
    """GiB: the base (the UNet in bf16; in 02 also one in fp32), a space, and what a batch keeps for its gradient."""
    half, whole = 2 * PARAMETERS["UNet"], 4 * sum(PARAMETERS.values())
    base = half + whole - 4 * PARAMETERS["UNet"]
    components = max(part.components for part in parts_with(profile, "invert", "domains", "release"))
    rows = [n * (costs.kept_checkpointed if c else costs.kept) for n, c in largest_batches(profile).values()]
    most = base + 4 * components * RELEASE_WIDTH + max(rows)
    if profile.has("finetune"):
        most = max(most, base + whole + rows[0])
    return most / 2**30 + WORKSPACE_GIB


def parts_with(profile: Profile, *names: str) -> list:
    return [getattr(profile, name) for name in names if profile.has(name)]


def gigabytes(profile: Profile) -> tuple[float, float]:
    """Of downloads, and of the disk in all: DVC keeps a second copy of what the notebooks write."""
    base = 4 * sum(PARAMETERS.values()) / 1e9
    downloads, written = ENVIRONMENT_GB["downloads"] + base, 0.0
    if profile.has("release"):
        downloads += sum(RELEASE_GB.values())
        written += 4 * profile.release.components * (RELEASE_WIDTH + RELEASE_MODELS) / 1e9
    if profile.has("people"):
        sets = profile.people.sets
        people, again = sets.train + sets.heldout, profile.finetune.evaluate.again
        written += people * sets.views * sets.size**2 * 3 / 1e9  # pictures
        models = people + len(again) * profile.finetune.evaluate.people + profile.space.components
        written += 4 * RELEASE_WIDTH * models / 1e9
    return downloads, downloads - ENVIRONMENT_GB["downloads"] + ENVIRONMENT_GB["disk"] + 2 * written


def hours(passes: Passes, costs: Costs, card: str) -> str:
    """From the best share of the peak to the worst."""
    least, most = (costs.seconds(passes, *CARDS[card]) / share / 3600 for share in reversed(SHARES))
    if most >= 1:
        return f"{least:.1f} to {most:.1f}"
    return f"{60 * least:.0f} to {60 * most:.0f} min" if most >= 1 / 30 else "under 2 min"


def table(names: Sequence[str], costs: Costs) -> str:
    """Markdown: the needs of each profile with how they were computed, then the notebooks."""
    profiles = {name: load(name) for name in names}
    counted = {name: passes_of(profile) for name, profile in profiles.items()}
    sizes = {name: gigabytes(profile) for name, profile in profiles.items()}
    low, high = (f"{share:.0%}" for share in SHARES)
    files = "the wheels of `uv.lock`, the base in fp32, the release without `all_weights.pt`"
    kept = f"base, space, {costs.kept / 1e9:.2f} GB for each row that is trained at once (counted)"
    lines = {
        "downloads, GB": ([f"{down:.1f}" for down, _ in sizes.values()], files),
        "disk, GB": (
            [f"{disk:.0f}" for _, disk in sizes.values()],
            "these, unpacked, and twice what the notebooks write: DVC keeps a copy",
        ),
        "GPU memory, GiB": (
            [f"{gpu_memory(profile, costs):.0f}" for profile in profiles.values()],
            f"{kept}, {WORKSPACE_GIB} GiB for the rest (estimated)",
        ),
    }
    for card, (peak, _) in CARDS.items():
        how = f"counted FLOPs at {low} to {high} of {peak / 1e12:.0f} TFLOP/s in bf16 (assumed)"
        lines[f"hours, {card}"] = [hours(sum(of.values()), costs, card) for of in counted.values()], how
    rows = [["", *(f"`{name}`" for name in names), "how it was computed"], ["---"] * (len(names) + 2)]
    rows += [[name, *values, how] for name, (values, how) in lines.items()]
    below = [["notebook", "rows without gradient", "with gradient", *(f"hours, {card}" for card in CARDS)], ["---"] * 5]
    for name, of in counted.items():
        for notebook, passes in of.items():
            trained = passes.trained + passes.checkpointed + passes.exact
            below.append([f"`{name}`, {notebook}", f"{passes.forward:,}", f"{trained:,}"])
            below[-1] += [hours(passes, costs, card) for card in CARDS]
    return "\n\n".join(
        "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in part) for part in (rows, below)
    )


if __name__ == "__main__":
    print(table(sys.argv[1:] or ["sd15", "sd15-own"], costs_of_stable_diffusion()))
