"""Settings that fit alone and not together."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter, ValidationError

from w2w_lib.inputs import explain, nearest
from w2w_lib.models.recipe import IDENTIFIER, TIMESTEPS, Sampling
from w2w_lib.people.recipe import SPLITS
from w2w_lib.people.rendered.person import ATTRIBUTES
from w2w_lib.pocket.recipe import BaseRecipe
from w2w_lib.release.celeba import CELEBA
from w2w_lib.space.inversion_recipes import InversionRecipe
from w2w_lib.training.recipe import FleetRecipe
from w2w_lib.workbook import paths
from w2w_lib.workbook.base_configuration import pixels_and_timesteps
from w2w_lib.workbook.sections import Changes, Profile
from w2w_lib.workbook.setting_types import MOST
from w2w_lib.workbook.size_conflicts import at_most, of_scale, of_sizes, own_people

LONGEST = 80  # characters of a folder's name
FOLDER = re.compile(rf"[^./\\\0][^/\\\0]{{0,{LONGEST - 1}}}")
AS_SET = "as set"  # the entry of the sweep that changes nothing


def conflicts(profile: Profile) -> list[str]:
    """Every pair of settings that do not fit together, one line each."""
    of_people = (of_sizes, of_scale, _changes, _attributes, _judges) if profile.has("people") else ()
    of_release = (_release,) if profile.has("release") else ()
    checks = (_amounts, *of_people, *of_release, _prompts, _base)
    return [line for check in checks for line in check(profile)]


def _judges(profile: Profile) -> Iterator[str]:
    if profile.people.own and profile.judge.clip is None:
        yield (
            "judge.clip: the pocket world's dual encoder knows renders alone, and these are photographs; expected the "
            "folder of a CLIP, or its hub id"
        )


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
            others = {field: changed.pop(field) for field in Changes.model_fields if field in changes}
            try:
                views = Changes.model_validate_json(json.dumps(others), strict=True).views
                found = TypeAdapter(FleetRecipe).validate_json(json.dumps(changed), strict=True)
                yield from _too_much(place, found)
                if not own_people(profile):
                    yield from at_most(f"{place}.views", views or 1, "people.sets.views", profile.people.sets.views)
            except ValidationError as error:
                yield explain(error, place, [*recipe, *Changes.model_fields])
    if next(iter(evaluate.sweep.items()), None) != (AS_SET, {}):
        yield f"finetune.evaluate.sweep: expected a first entry `{AS_SET}: {{}}`, to compare the others with"


def _attributes(profile: Profile) -> Iterator[str]:
    if own_people(profile):  # their labels are known when they are read
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


def _release(profile: Profile) -> Iterator[str]:
    release, made = profile.release, profile.release.synthetic
    for setting in ("photo", "mask"):
        if (path := getattr(release, setting)) and not (paths.ROOT / path).is_file():
            yield f"release.{setting}: no file {str(path)!r}; expected a picture"
    if made and release.source is None:
        yield from at_most("release.components", release.components, "release.synthetic.known", made.known)
        yield from at_most("release.synthetic.known", made.known, "release.synthetic.columns", made.columns)
        yield from at_most("release.synthetic.known", made.known, "release.synthetic.models", made.models)
        yield from at_most("release.synthetic.inverted", made.inverted, "release.synthetic.models", made.models)
        for name in release.labels:
            if name not in CELEBA:
                yield f"release.labels: CelebA has no label {name!r}{nearest(name, CELEBA)}"


def _prompts(profile: Profile) -> Iterator[str]:
    sections = ("space", "edit", "invert", "judge", "scale", "domains", "release")
    prompts = {name: getattr(profile, name).prompts for name in sections if profile.has(name)}
    if profile.has("finetune"):
        prompts = {"finetune.evaluate": profile.finetune.evaluate.prompts} | prompts
    for section, given in prompts.items():
        for prompt in given:
            if not re.search(rf"\b{IDENTIFIER}\b", prompt):
                yield f"{section}.prompts: {prompt!r} does not name the person; expected the word {IDENTIFIER!r} in it"


def _base(profile: Profile) -> Iterator[str]:
    """Against the configuration of the base model, where that is in place."""
    timesteps = TIMESTEPS  # of a base that is not there yet
    if profile.base.model:
        try:
            if facts := pixels_and_timesteps(paths.ROOT / profile.base.model):
                pixels, timesteps = facts
                size = profile.people.sets.size if profile.has("people") else pixels
                if size != pixels:
                    yield f"people.sets.size is {size}, expected {pixels}, which base.model paints"
        except (ValueError, FileNotFoundError) as error:
            yield f"base.model: {error}"
    injected = [name for name in ("edit", "judge", "release") if profile.has(name)]
    last = {f"{name}.inject_below": max(getattr(profile, name).inject_below) for name in injected}
    for name, values in _recipes(profile).items():
        if isinstance(values, Sampling):
            last |= {f"{name}.steps": values.steps, f"{name}.inject_below": values.inject_below}
        elif not isinstance(values, BaseRecipe):
            last |= {f"{name}.timesteps": values.timesteps[1]}
    for name, value in last.items():
        yield from at_most(name, value, "the timesteps of the base's scheduler", timesteps)


def _amounts(profile: Profile) -> Iterator[str]:
    """In the library's recipes, which leave to the caller how much is too much."""
    for name, values in _recipes(profile).items():
        yield from _too_much(name, values)


def _too_much(name: str, recipe: Any) -> Iterator[str]:
    for field, value in asdict(recipe).items():
        largest = max(value, default=0) if isinstance(value, tuple) else value
        if isinstance(largest, int | float) and field != "seed":
            yield from at_most(f"{name}.{field}", largest, "anything in a recipe", MOST)


def _recipes(profile: Profile) -> dict[str, Sampling | FleetRecipe | InversionRecipe | BaseRecipe]:
    training = profile.base.training
    found = {"recipe": training.recipe, "evaluate.sampling": training.evaluate.sampling} if training else {}
    found = {f"base.training.{name}": values for name, values in found.items()}
    if profile.has("people"):
        found |= _recipes_of_people(profile)
    if profile.has("release"):
        found |= {"release.recipe": profile.release.recipe, "release.sampling": profile.release.sampling}
    return found


def _recipes_of_people(profile: Profile) -> dict[str, Sampling | FleetRecipe | InversionRecipe]:
    finetune, invert, domains = profile.finetune, profile.invert, profile.domains
    return {
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
