"""How well people can be learned on a base: notebook 02's likeness of held-out people, without its thousand others.

    python benchmarks/bases.py data/base/pocket my/other/base      # after `make reproduce`, whose people it takes

An adapter does not depend on the others in its fleet, so for the base of the profile these are notebook 02's own
numbers, to within the rounding of a batch. It takes about five minutes for each base on two cores: to be run before a
thousand people are trained on a new one.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import pandas as pd
import torch
import typer

from w2w_lib.evaluation.identity import Faces, verify
from w2w_lib.evaluation.portraits import portraits, prompts_with_seeds
from w2w_lib.lora.layout import TARGETS, AdapterLayout
from w2w_lib.models.base import open_base
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.images import encode_images, to_pixels
from w2w_lib.models.prompts import CLASS_PROMPT
from w2w_lib.models.sampling import generate
from w2w_lib.people.people_set import People
from w2w_lib.training.fleet import Fleet
from w2w_lib.workbook.artefacts import Artefacts
from w2w_lib.workbook.sections import Finetune
from w2w_lib.workbook.settings import load


def likeness(base: str, settings: Finetune, people: People) -> pd.DataFrame:
    """Verification of held-out people's own models on one base: a row for each layout, and one without adapters."""
    evaluation, sampling, count = settings.evaluate, settings.evaluate.sampling, settings.prior_images
    pipeline = open_base(base, torch.bfloat16)
    ids = people.ids[: evaluation.people]
    real = Faces.of(people, ids, evaluation.views)
    prompt_seeds = prompts_with_seeds(evaluation.prompts, evaluation.first_seed, evaluation.images)
    class_pictures = generate(pipeline, [CLASS_PROMPT] * count, range(count), sampling=sampling)
    prior, latents = encode_images(pipeline, to_pixels(class_pictures)), people.latents(pipeline)
    rows = {}
    for targets in TARGETS:
        layout = AdapterLayout.of(pipeline.unet, fingerprint(pipeline), targets, settings.rank, settings.alpha)
        with TemporaryDirectory() as folder:
            fleet = Fleet(pipeline, layout, settings.recipe, prior)
            trained = fleet.dataset(folder)
            fleet.train_all({i: latents[i] for i in ids}, trained, settings.fleet_size, settings.workers)
            weights = trained.weights(ids)
        rows[f"{targets} layers"] = verify(portraits(pipeline, layout, weights, prompt_seeds, sampling), ids, real)
    rows["no adapter"] = verify(portraits(pipeline, layout, 0 * weights, prompt_seeds, sampling), ids, real)
    return pd.DataFrame(rows).T


def main(
    bases: Annotated[list[str], typer.Argument(help="Folders of base models.")],
    profile: Annotated[str, typer.Option(help="Whose settings and held-out people.")] = "pocket",
    out: Annotated[Path, typer.Option(help="Where the numbers go.")] = Path("benchmarks/bases.json"),
) -> None:
    """Measure every base, print one table and write it as JSON."""
    settings, people = load(profile).finetune, Artefacts(profile).people("heldout")
    table = pd.concat({base: likeness(base, settings, people) for base in bases}, names=["base", "model"])
    print(table.round(3).to_string())
    table.reset_index().to_json(out, orient="records", indent=1)


if __name__ == "__main__":
    typer.run(main)
