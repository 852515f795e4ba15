"""Numbers of people, components and pictures that fit alone and not together."""

from collections.abc import Iterator

from w2w_lib.workbook.sections import Profile

LEAST_FOR_A_TREND = 3  # numbers of people: the last is compared with the line through the others


def of_sizes(profile: Profile) -> Iterator[str]:
    """Of the sections but that of the study of scale."""
    sets, finetune, space, edit, invert, judge, domains = (
        profile.people.sets,
        profile.finetune,
        profile.space,
        profile.edit,
        profile.invert,
        profile.judge,
        profile.domains,
    )
    evaluate, own = finetune.evaluate, own_people(profile)
    most = max(space.counts)
    yield from at_most("space.counts", most, "people.sets.train - 1", sets.train - 1)
    yield from at_most("space.leading", space.leading, "space.counts", most)
    yield from at_most("space.pictured", space.pictured, "space.samples", space.samples)
    yield from at_most("edit.components", edit.components, "space.counts", most)
    yield from at_most("invert.components", invert.components, "people.sets.train - 1", sets.train - 1)
    yield from at_most("domains.components", domains.components, "space.counts", most)
    for section, values in (("invert", invert), ("domains", domains)):
        yield from at_most(f"{section}.unseen", values.unseen, "people.sets.unseen", sets.unseen)
        yield from at_most(f"{section}.people", values.people, "people.sets.heldout", sets.heldout)
        yield from at_most(f"{section}.val", values.val, "people.sets.val", sets.val)
    yield from at_most("invert.counts", max(invert.counts), "invert.components", invert.components)
    yield from at_most("invert.timed", invert.timed, "invert.people", invert.people)
    yield from at_most("invert.counted", invert.counted, "invert.people", invert.people)
    heldout = {
        "finetune.evaluate.people": evaluate.people,
        "space.gallery": space.gallery,
        "edit.people": edit.people,
        "judge.people": judge.people,
    }
    for name, value in heldout.items():
        yield from at_most(name, value, "people.sets.heldout", sets.heldout)
    yield from at_most("space.heldout", space.heldout, "space.gallery", space.gallery)
    yield from at_most("space.val", space.val, "people.sets.val", sets.val)
    for name in ("watched", "sweep_people"):
        yield from at_most(f"finetune.evaluate.{name}", getattr(evaluate, name), "people.sets.val", sets.val)
    yield from at_most("finetune.evaluate.sweep_images", evaluate.sweep_images, "its images", evaluate.images)
    steps = finetune.recipe.steps
    yield from at_most("finetune.evaluate.watched_at", max(evaluate.watched_at), "finetune.recipe.steps", steps)
    if not own:  # of one's own there may be fewer anyway
        yield from at_most("finetune.evaluate.timed_sizes", max(evaluate.timed_sizes), "people.sets.train", sets.train)
    for name in ("swept", "oracles", "composed"):
        yield from at_most(f"judge.{name}", getattr(judge, name), "judge.people", judge.people)
    yield from at_most("judge.validation", judge.validation, "people.sets.val", sets.val)
    yield from at_most("judge.components", max(judge.components), "space.counts", most)
    yield from at_most("edit.control_below", edit.control_below, "edit.works_above", edit.works_above)
    if not own:  # one's own people have as many pictures as they have
        yield from at_most("people.evaluated_views", profile.people.evaluated_views, "people.sets.views", sets.views)
        yield from at_most("invert.given", invert.given, "people.sets.views", sets.views)
        yield from at_most("invert.start_views", invert.start_views, "people.sets.views", sets.views)


def of_scale(profile: Profile) -> Iterator[str]:
    """Of the study of scale."""
    scale, sets = profile.scale, profile.people.sets
    parts = {"projected": scale.projected, "inverted": scale.inverted, "edited": scale.edited, "sampled": scale.sampled}
    yield from at_most("scale.fixed", scale.fixed, "the least of scale.sizes - 1", min(scale.sizes) - 1)
    trends = {"scale.sizes": scale.sizes, "scale.projected.sizes": parts["projected"].sizes}
    trends["scale.inverted.sizes"] = parts["inverted"].sizes
    for setting, sizes in trends.items():
        if len({min(size, sets.train) for size in sizes}) < LEAST_FOR_A_TREND:
            yield f"{setting}: {sizes}, of {sets.train} people (people.sets.train); expected three numbers up to that"
    for name, part in parts.items():
        if left := sorted(set(part.sizes) - set(scale.sizes)):
            yield f"scale.{name}.sizes: {left[0]} is not among scale.sizes, {scale.sizes}"
        yield from at_most(f"scale.{name}.fixed", part.fixed, "its least size - 1", min(part.sizes) - 1)
    for name in ("projected", "inverted"):
        yield from at_most(f"scale.{name}.repeats", getattr(scale, name).repeats, "scale.repeats", scale.repeats)
    yield from at_most("scale.people", scale.people, "people.sets.heldout", sets.heldout)
    yield from at_most("scale.views", scale.views, "people.sets.unseen", sets.unseen)
    yield from at_most("scale.edited.people", scale.edited.people, "scale.people", scale.people)
    yield from at_most("scale.sliders.people", scale.sliders.people, "scale.people", scale.people)
    pairs = scale.interpolated.pairs  # of different people, so that no picture is compared with itself
    yield from at_most("scale.interpolated.pairs", pairs, "people.sets.heldout / 2", sets.heldout // 2)
    if (shares := scale.interpolated.shares) != sorted({0, *shares, 1}):
        yield f"scale.interpolated.shares: expected rising numbers from 0 to 1, found {shares}"
    pictured = scale.interpolated.pictured
    yield from at_most("scale.interpolated.pictured", pictured, "its pairs", scale.interpolated.pairs)
    yield from at_most("scale.sampled.leading", scale.sampled.leading, "max(scale.sizes) - 1", max(scale.sizes) - 1)
    yield from at_most("scale.sampled.kinds", scale.sampled.kinds, "max(scale.sizes)", max(scale.sizes))


def own_people(profile: Profile) -> bool:
    """Whether the people are one's own, named already or not."""
    return profile.people.own or profile.people.sets.source is not None


def at_most(name: str, value: float, limit_name: str, limit: float) -> Iterator[str]:
    """One line where a setting is above its limit."""
    if value > limit:
        yield f"{name} is {value}, expected at most {limit_name}, {limit}"
