"""The rows that each notebook sends through the UNet, counted from a profile's settings in the order of its cells.

A picture takes one row for each step, two with guidance, and one decoding. Where a notebook chooses between settings,
the dearest one is taken.
"""

from dataclasses import astuple, dataclass

from w2w_lib.models.sampling import Sampling
from w2w_lib.space.inversion_recipes import RECIPES, InversionRecipe
from w2w_lib.space.subsets import conditions
from w2w_lib.workbook.sections import Finetune, Profile

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
    """02: the fleet of all people, choices on val ones, and its evaluation on held-out ones."""
    f, e, sets = profile.finetune, profile.finetune.evaluate, profile.people.sets
    everybody, few, each = sets.train + sets.val + sets.heldout, e.sweep_people, e.people * e.images
    sizes = [size for size in e.timed_sizes if size <= f.fleet_size]
    again = sum(fine_tuned(e.people, f, **change) for change in trainings(e.again))
    sweep = sum(fine_tuned(few, f, **change) for change in trainings(e.sweep))
    painted = e.watched * (1 + len(e.watched_at)) * e.images + each * (2 + len(e.again))
    painted += 3 * few * e.class_images + few * min(e.sweep_images, e.images) * (len(e.sweep) + 2)
    return (
        class_pictures(f)  # for the plain prompt
        + class_pictures(f)  # and in contexts
        + Passes(encoded=everybody * sets.views)
        + fine_tuned(2 * min(4, sets.train), f, "exact", steps=e.check_steps)
        + fine_tuned(sum(sizes) + f.fleet_size, f, steps=e.timed_steps)
        + fine_tuned(4 + len(e.again), f, steps=1)  # what a step takes of the memory
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
    """03: val people with some components, sampled people and two controls, neighbours, held-out and training ones."""
    s, most = profile.space, profile.people.sets.train - 1
    models = s.val * len({min(m, most) for m in s.counts}) + 3 * s.samples + min(s.pictured, s.samples)
    return pictures((models + 3 * s.heldout + 1) * s.images, s.sampling)


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
    undescribed = int(f.recipe.instance_prompt == "context")  # else no picture is described
    kinds = 2 + undescribed  # one picture, several, and one that is not described
    val = fine_tuned(kinds * s.val, f, steps=sum(s.dreambooth_steps)) + inverted(s.val, RECIPES["paper"], s.paper_steps)
    val += 2 * inverted(s.val, recipe) + inverted(s.val, quick)  # with both numbers of components
    runs = len(s.seeds) + 1 + undescribed  # one picture with every seed
    compared = fine_tuned(runs * s.people, f, steps=longest) + inverted(runs * s.people, recipe)
    of_each = fine_tuned(2, f, steps=longest) + inverted(1, recipe) + inverted(1, quick)  # together, then one alone
    of_a_step = fine_tuned(2, f, steps=1) + inverted(1, recipe, 1) + inverted(1, quick, 1)
    traded = inverted(s.timed, recipe, sum(s.plain_steps)) + inverted(s.timed, quick, sum(s.quick_steps))
    of_counts = s.counted * len(s.counts) * (1 + undescribed)
    counted = inverted(of_counts, recipe, max(s.plain_steps))
    models = s.people + s.val * (kinds * len(s.dreambooth_steps) + 4) + s.people * (2 * runs + 3) + 1
    points = len({*s.plain_steps, recipe.steps}) + len({*s.quick_steps, quick.steps}) + 3
    models += s.timed * points + of_counts + (1 + undescribed) * 2 * s.people * len(s.scales)
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

    inversions = len({one[1:] for one in spaces(s.inverted, s.inverted.repeats)})
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
    val, given, tried = s.val * kinds * len(s.priors), s.people * kinds, s.val * kinds
    models = val + tried * len(s.dreambooth_steps) + 2 * given + 1 + photos + 4 * s.wearers
    return (
        class_pictures(profile.finetune)
        + Passes(encoded=val + tried * len(s.dreambooth_steps) + 2 * given + photos + s.wearers)
        + inverted(val + given + 3 * s.wearers, s.recipe)
        + fine_tuned(tried, profile.finetune, steps=sum(s.dreambooth_steps))
        + fine_tuned(given, profile.finetune, steps=max(s.dreambooth_steps))
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
