"""Settings that fit alone and not together."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from w2w_lib.files.regular import regular_file
from w2w_lib.inputs import explain, nearest, problem
from w2w_lib.models.prompts import IDENTIFIER
from w2w_lib.models.sampling import Sampling
from w2w_lib.people.recipe import SPLITS
from w2w_lib.people.rendered.person import ATTRIBUTES
from w2w_lib.pocket.recipe import BaseRecipe
from w2w_lib.space.inversion_recipes import InversionRecipe
from w2w_lib.training.recipe import FleetRecipe
from w2w_lib.workbook import paths
from w2w_lib.workbook.sections import Profile
from w2w_lib.workbook.setting_types import LARGEST_SEED, MOST, Targets

TIMESTEPS = 1000  # of a scheduler whose base is not there yet
LONGEST = 80  # characters of a folder's name
FOLDER = re.compile(rf"[^./\\\0][^/\\\0]{{0,{LONGEST - 1}}}")
AS_SET = "as set"  # the entry of the sweep that changes nothing
LEAST_FOR_A_TREND = 3  # numbers of people: the last is compared with the line through the others
AMOUNTS = ("rank", "pictures")  # of alternatives, beside the recipe's settings
CONFIGS = ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")


def conflicts(profile: Profile) -> list[str]:
    """Every pair of settings that do not fit together, one line each."""
    checks = (_amounts, _sizes, _scale, _changes, _attributes, _prompts, _base)
    return [line for check in checks for line in check(profile)]


def _sizes(profile: Profile) -> Iterator[str]:
    sets, finetune, space, edit, invert, judge, domains = (
        profile.people.sets,
        profile.finetune,
        profile.space,
        profile.edit,
        profile.invert,
        profile.judge,
        profile.domains,
    )
    evaluate = finetune.evaluate
    yield from _at_most("space.components", space.components, "people.sets.train - 1", sets.train - 1)
    yield from _at_most("space.leading", space.leading, "space.components", space.components)
    yield from _at_most("space.counts", max(space.counts), "space.components", space.components)
    yield from _at_most("space.pictured", space.pictured, "space.samples", space.samples)
    yield from _at_most("edit.components", edit.components, "space.components", space.components)
    for section, values in (("invert", invert), ("domains", domains)):
        yield from _at_most(f"{section}.components", values.components, "space.components", space.components)
        both = f"{section}.people and {section}.val together"
        yield from _at_most(both, values.people + values.val, "people.sets.heldout", sets.heldout)
    yield from _at_most("invert.counts", max(invert.counts), "invert.components", invert.components)
    yield from _at_most("invert.timed", invert.timed, "invert.people", invert.people)
    yield from _at_most("invert.counted", invert.counted, "invert.people", invert.people)
    heldout = {
        "finetune.evaluate.people": evaluate.people,
        "finetune.evaluate.watched": evaluate.watched,
        "space.heldout": space.heldout,
        "edit.people": edit.people,
        "judge.people": judge.people,
    }
    for name, value in heldout.items():
        yield from _at_most(name, value, "people.sets.heldout", sets.heldout)
    yield from _at_most("finetune.evaluate.sweep_people", evaluate.sweep_people, "its people", evaluate.people)
    yield from _at_most("finetune.evaluate.sweep_images", evaluate.sweep_images, "its images", evaluate.images)
    steps = finetune.recipe.steps
    yield from _at_most("finetune.evaluate.watched_at", max(evaluate.watched_at), "finetune.recipe.steps", steps)
    if not sets.source:  # of one's own there may be fewer anyway
        yield from _at_most("finetune.evaluate.timed_sizes", max(evaluate.timed_sizes), "people.sets.train", sets.train)
    yield from _at_most("edit.hero", edit.hero, "edit.people - 1", edit.people - 1)
    for name in ("swept", "oracles", "composed"):
        yield from _at_most(f"judge.{name}", getattr(judge, name), "judge.people", judge.people)
    if sets.source:  # of rendered people, those to choose by are rendered anew
        both = judge.people + judge.validation
        yield from _at_most("judge.people + judge.validation", both, "people.sets.heldout", sets.heldout)
    yield from _at_most("judge.hero", judge.hero, "judge.oracles - 1", judge.oracles - 1)
    yield from _at_most("judge.components", max(judge.components), "space.components", space.components)
    yield from _at_most("edit.control_below", edit.control_below, "edit.works_above", edit.works_above)
    if not sets.source:  # one's own people have as many pictures as they have
        yield from _at_most("people.evaluated_views", profile.people.evaluated_views, "people.sets.views", sets.views)
        yield from _at_most("finetune.evaluate.views", evaluate.views, "people.sets.views", sets.views)
        yield from _at_most("space.images", space.images, "people.sets.views", sets.views)
        yield from _at_most("invert.given", invert.given, "people.sets.views", sets.views)
        yield from _at_most("invert.start_views", invert.start_views, "people.sets.views", sets.views)


def _scale(profile: Profile) -> Iterator[str]:
    scale, sets = profile.scale, profile.people.sets
    parts = {"projected": scale.projected, "inverted": scale.inverted, "edited": scale.edited, "sampled": scale.sampled}
    yield from _at_most("scale.fixed", scale.fixed, "the least of scale.sizes - 1", min(scale.sizes) - 1)
    trends = {"scale.sizes": scale.sizes, "scale.projected.sizes": parts["projected"].sizes}
    trends["scale.inverted.sizes"] = parts["inverted"].sizes
    for setting, sizes in trends.items():
        if len({min(size, sets.train) for size in sizes}) < LEAST_FOR_A_TREND:
            yield f"{setting}: {sizes}, of {sets.train} people (people.sets.train); expected three numbers up to that"
    for name, part in parts.items():
        if left := sorted(set(part.sizes) - set(scale.sizes)):
            yield f"scale.{name}.sizes: {left[0]} is not among scale.sizes, {scale.sizes}"
        yield from _at_most(f"scale.{name}.fixed", part.fixed, "its least size - 1", min(part.sizes) - 1)
    yield from _at_most("scale.projected.repeats", scale.projected.repeats, "scale.repeats", scale.repeats)
    yield from _at_most("scale.people", scale.people, "people.sets.heldout", sets.heldout)
    yield from _at_most("scale.edited.people", scale.edited.people, "scale.people", scale.people)
    yield from _at_most("scale.sliders.people", scale.sliders.people, "scale.people", scale.people)
    pairs = scale.interpolated.pairs  # of different people, so that no picture is compared with itself
    yield from _at_most("scale.interpolated.pairs", pairs, "people.sets.heldout / 2", sets.heldout // 2)
    if (shares := scale.interpolated.shares) != sorted({0, *shares, 1}):
        yield f"scale.interpolated.shares: expected rising numbers from 0 to 1, found {shares}"
    pictured = scale.interpolated.pictured
    yield from _at_most("scale.interpolated.pictured", pictured, "its pairs", scale.interpolated.pairs)
    yield from _at_most("scale.sampled.leading", scale.sampled.leading, "max(scale.sizes) - 1", max(scale.sizes) - 1)
    yield from _at_most("scale.sampled.kinds", scale.sampled.kinds, "max(scale.sizes)", max(scale.sizes))


def _changes(profile: Profile) -> Iterator[str]:
    """Of the recipe, each as it would be trained with."""
    evaluate, recipe = profile.finetune.evaluate, asdict(profile.finetune.recipe)
    for name in evaluate.again:  # of a folder of weights, beside those of the stage
        if not FOLDER.fullmatch(name) or name in SPLITS:
            kept = ", ".join(SPLITS)
            yield (
                f"finetune.evaluate.again: {name!r} cannot be a folder's name; expected up to {LONGEST} characters, "
                f"no / and no dot at the start, and none of {kept}"
            )
    kinds = {"finetune.evaluate.again": evaluate.again, "finetune.evaluate.sweep": evaluate.sweep}
    kinds["scale.alternatives"] = profile.scale.alternatives
    for kind, variants in kinds.items():
        for name, changes in variants.items():
            place, changed = f"{kind}.{name}", {**recipe, **changes}
            for count in AMOUNTS if kind == "scale.alternatives" else ():
                if type(found := changed.pop(count, 1)) is not int or found < 1:
                    yield f"{place}.{count}: expected a whole number of at least 1, found {found!r}"
            targets = {"targets": changed.pop("targets")} if "targets" in changes else {}
            try:
                TypeAdapter(dict[str, Targets]).validate_python(targets)
                found = TypeAdapter(FleetRecipe).validate_json(json.dumps(changed), strict=True)
                yield from _too_much(place, found)
            except ValidationError as error:
                yield explain(error, place, [*recipe, "targets"])
    if evaluate.sweep.get(AS_SET) != {}:
        yield f"finetune.evaluate.sweep: expected an entry `{AS_SET}: {{}}`, to compare the others with"


def _attributes(profile: Profile) -> Iterator[str]:
    if profile.people.sets.source:  # their labels are known when they are read
        return
    edit, judge, scale = profile.edit, profile.judge, profile.scale
    listed = {"edit.attributes": edit.attributes, "judge.attributes": judge.attributes}
    listed |= {"scale.edited.attributes": scale.edited.attributes, "scale.pairs": [n for p in scale.pairs for n in p]}
    for setting, names in listed.items():
        for name in names:
            if name not in ATTRIBUTES:
                yield f"{setting}: rendered people have no label {name!r}{nearest(name, ATTRIBUTES)}"
    used = {"counterfactual": [edit.counterfactual], "compose": edit.compose}
    used = {f"edit.{setting}": names for setting, names in used.items()} | {
        "invert.edits": profile.invert.edits,
        "domains.edits": profile.domains.edits,
    }
    if profile.domains.attribute not in ATTRIBUTES:
        wrong = profile.domains.attribute
        yield f"domains.attribute: rendered people have no label {wrong!r}{nearest(wrong, ATTRIBUTES)}"
    for setting, names in used.items():
        for name in names:
            if name not in edit.attributes:
                yield f"{setting}: {name!r} is not among edit.attributes{nearest(name, edit.attributes)}"
    combined = [name for names in judge.compose for name in names]
    for setting, names in {"pictured": judge.pictured, "compose": combined, "delayed": [judge.delayed]}.items():
        for name in names:
            if name not in judge.attributes:
                yield f"judge.{setting}: {name!r} is not among judge.attributes{nearest(name, judge.attributes)}"
    for name in judge.reported:
        if name not in judge.methods:
            yield f"judge.reported: {name!r} is not among judge.methods; add it there"
    if "paper" not in judge.reported:
        yield "judge.reported: 'paper' is missing, with which the others are compared; add it"


def _prompts(profile: Profile) -> Iterator[str]:
    prompts = {
        "finetune.evaluate": profile.finetune.evaluate.prompts,
        "space": profile.space.prompts,
        "edit": profile.edit.prompts,
        "invert": profile.invert.prompts,
        "judge": profile.judge.prompts,
        "scale": profile.scale.prompts,
        "domains": profile.domains.prompts,
    }
    for section, given in prompts.items():
        for prompt in given:
            if not re.search(rf"\b{IDENTIFIER}\b", prompt):
                yield f"{section}.prompts: {prompt!r} does not name the person; expected the word {IDENTIFIER!r} in it"


def _base(profile: Profile) -> Iterator[str]:
    """Against the configuration of the base model, where that is in place."""
    timesteps = TIMESTEPS
    if profile.base.model:
        try:
            if facts := _facts(paths.ROOT / profile.base.model):
                pixels, timesteps = facts
                size = profile.people.sets.size
                if size != pixels:
                    yield f"people.sets.size is {size}, expected {pixels}, which base.model paints"
        except (ValueError, FileNotFoundError) as error:
            yield f"base.model: {error}"
    last = {f"{name}.inject_below": max(getattr(profile, name).inject_below) for name in ("edit", "judge")}
    for name, values in _recipes(profile).items():
        if isinstance(values, Sampling):
            last |= {f"{name}.steps": values.steps, f"{name}.inject_below": values.inject_below}
        elif not isinstance(values, BaseRecipe):
            last |= {f"{name}.timesteps": values.timesteps[1]}
    for name, value in last.items():
        yield from _at_most(name, value, "the timesteps of the base's scheduler", timesteps)


def _amounts(profile: Profile) -> Iterator[str]:
    """In the library's recipes, which leave to the caller how much is too much."""
    for name, values in _recipes(profile).items():
        yield from _too_much(name, values)


def _too_much(name: str, recipe: Any) -> Iterator[str]:
    for field, value in asdict(recipe).items():
        largest = max(value, default=0) if isinstance(value, tuple) else value
        limit = ("any seed", LARGEST_SEED) if field == "seed" else ("anything in a recipe", MOST)
        if isinstance(largest, int | float):
            yield from _at_most(f"{name}.{field}", largest, *limit)


def _recipes(profile: Profile) -> dict[str, Sampling | FleetRecipe | InversionRecipe | BaseRecipe]:
    finetune, invert, domains, training = profile.finetune, profile.invert, profile.domains, profile.base.training
    of_base = {"recipe": training.recipe, "evaluate.sampling": training.evaluate.sampling} if training else {}
    return {f"base.training.{name}": values for name, values in of_base.items()} | {
        "finetune.recipe": finetune.recipe,
        "finetune.evaluate.sampling": finetune.evaluate.sampling,
        "space.sampling": profile.space.sampling,
        "edit.sampling": profile.edit.sampling,
        "invert.recipe": invert.recipe,
        "invert.quick": invert.quick,
        "invert.sampling": invert.sampling,
        "scale.inverted.recipe": profile.scale.inverted.recipe,
        "scale.sampling": profile.scale.sampling,
        "domains.recipe": domains.recipe,
        "domains.photo_recipe": domains.photo_recipe,
        "domains.sampling": domains.sampling,
    }


def _facts(folder: Path) -> tuple[int, int] | None:
    """Width of the base's pictures (pixels) and its number of timesteps, from its configuration alone."""
    files = [folder / name for name in CONFIGS]
    if not all(map(os.path.exists, files)):  # False for a name that no file can have
        return None
    unet, vae, scheduler = map(_config, files)
    try:
        pixels = unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)
        return pixels, scheduler["num_train_timesteps"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder}: its configuration does not say the size of pictures ({error})") from None


def _config(file: Path) -> dict:
    regular_file(file, "the configuration of a base model", "save the base again")
    try:
        return TypeAdapter(dict[str, Any]).validate_json(file.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{file}: {problem(error.errors()[0])}; expected the configuration of a base model") from None


def _at_most(name: str, value: float, limit_name: str, limit: float) -> Iterator[str]:
    if value > limit:
        yield f"{name} is {value}, expected at most {limit_name}, {limit}"
