"""How well people can be learned on a base: notebook 02's likeness of held-out people, without its thousand others.

    python benchmarks/bases.py data/base/pocket my/other/base      # after `make reproduce`, whose people it takes

Nobody in a fleet feels the others, so for the base of the profile these are notebook 02's own numbers, to within the
rounding of a batch. It takes about five minutes for each base on two cores: to be run before a thousand people are
trained on a new one.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import pandas as pd
import torch
import typer

from w2w_lib import profiles
from w2w_lib.artefacts import Artefacts
from w2w_lib.base_model import CLASS_PROMPT, encode_images, fingerprint, open_base
from w2w_lib.fleet import Fleet, FleetRecipe
from w2w_lib.generate import Sampling, generate, to_pixels
from w2w_lib.identity import Faces, verify
from w2w_lib.layout import TARGETS, AdapterLayout
from w2w_lib.portraits import portraits, shots
from w2w_lib.weights_dataset import WeightsDataset


def likeness(base: str, settings: dict, people) -> pd.DataFrame:
    """Verification of held-out people's own models on one base: a row for each layout, and one without adapters."""
    evaluation, recipe = settings["evaluate"], FleetRecipe(**settings["recipe"])
    pipeline, sampling = open_base(base, torch.bfloat16), Sampling(**evaluation["sampling"])
    ids = people.ids[: evaluation["people"]]
    real = Faces.of(people, ids, evaluation["views"])
    taken = shots(evaluation["prompts"], evaluation["first_seed"], evaluation["shots"])
    count = settings["prior_images"]
    class_pictures = generate(pipeline, [CLASS_PROMPT] * count, range(count), sampling=sampling)
    prior, latents = encode_images(pipeline, to_pixels(class_pictures)), people.latents(pipeline)
    rows = {}
    for targets in TARGETS:
        layout = AdapterLayout.of(pipeline.unet, fingerprint(pipeline), targets, settings["rank"], settings["alpha"])
        with TemporaryDirectory() as folder:
            trained = WeightsDataset.create(folder, layout, recipe.to_dict())
            fleet = Fleet(pipeline, layout, recipe, prior)
            fleet.train_all({i: latents[i] for i in ids}, trained, settings["fleet_size"], settings["workers"])
            theta = trained.theta(ids)
        rows[f"{targets} layers"] = verify(portraits(pipeline, layout, theta, taken, sampling), ids, real)
    rows["no adapter"] = verify(portraits(pipeline, layout, 0 * theta, taken, sampling), ids, real)
    return pd.DataFrame(rows).T


def main(
    bases: Annotated[list[str], typer.Argument(help="Folders of base models.")],
    profile: Annotated[str, typer.Option(help="Whose settings and held-out people.")] = "pocket",
    out: Annotated[Path, typer.Option(help="Where the numbers go.")] = Path("benchmarks/bases.json"),
) -> None:
    """Measure every base, print one table and write it as JSON."""
    settings, people = profiles.load(profile, "finetune"), Artefacts(profile).people("heldout")
    table = pd.concat({base: likeness(base, settings, people) for base in bases}, names=["base", "model"])
    print(table.round(3).to_string())
    table.reset_index().to_json(out, orient="records", indent=1)


if __name__ == "__main__":
    typer.run(main)
