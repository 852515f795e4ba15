"""Train the pocket base, a small Stable Diffusion, on captioned renders of people who appear nowhere else."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from w2w_lib.files.atomic import write_text
from w2w_lib.files.regular import regular_file
from w2w_lib.pocket.base_trainer import BaseTrainer
from w2w_lib.pocket.recipe import BaseRecipe
from w2w_lib.pocket.training_data import prepare_data, refined_codec


def train_base(
    recipe: BaseRecipe,
    out: Path,
    work: Path,
    device: str | None = None,
    checkpoint_every: int = 500,
    compiled: bool = False,
) -> list[dict]:
    """Train (or continue) the base, write it as a half-precision pipeline folder ``out``, return the loss log.

    Interrupt it at any time: the next call continues from the last checkpoint in ``work``. The networks train on
    ``device``, by default a GPU if there is one; the CPU renders and writes captions. ``compiled`` trains a third
    faster where there is a C++ compiler. A base that is already in ``out`` is left as it is; ValueError if it was made
    by another recipe.
    """
    if (out / "training.json").exists():
        return _finished(recipe, out)
    _begin(recipe, work)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    data = prepare_data(recipe, work)
    codec = refined_codec(recipe, data, work, device, compiled)
    trainer = BaseTrainer(recipe, data, work, device, compiled)
    trainer.load_checkpoint()
    recent = []
    bar = tqdm(total=recipe.steps, initial=trainer.step, desc="train base", unit="step", mininterval=10)
    while trainer.step < recipe.steps:
        recent.append(trainer.train_step())
        bar.update()
        if trainer.step % checkpoint_every == 0 or trainer.step == recipe.steps:
            entry = {"step": trainer.step, "loss": torch.stack(recent).mean().item(), **trainer.caption_signal()}
            trainer.log.append(entry)
            bar.write(json.dumps(entry))
            recent.clear()
            trainer.save_checkpoint()
    bar.close()
    trainer.pipeline(codec).to(dtype=torch.float16).save_pretrained(out)
    write_text(json.dumps({"recipe": asdict(recipe), "log": trainer.log}, indent=1), out / "training.json")
    return trainer.log


def training_history(out: Path) -> str:
    """How the base in ``out`` came about: as its recipe says, unless its ``training.json`` tells more."""
    return _training_record(out).get("history", "Trained in one run of this recipe.")


def _finished(recipe: BaseRecipe, out: Path) -> list[dict]:
    done = _training_record(out)
    _same(recipe, done["recipe"], out)
    return done["log"]


def _training_record(out: Path) -> dict:
    path = regular_file(out / "training.json", "the record of a base's training", "train the base again")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if {"recipe", "log"} <= record.keys():
            return record
    except (ValueError, AttributeError):
        pass
    raise ValueError(f"{path}: expected JSON with a recipe and a log; restore the file, or train the base again")


def _begin(recipe: BaseRecipe, work: Path) -> None:
    """A work folder, which belongs to one recipe."""
    work.mkdir(parents=True, exist_ok=True)
    begun = work / "recipe.json"
    if begun.exists():
        _same(recipe, json.loads(begun.read_text(encoding="utf-8")), work)
    else:
        write_text(json.dumps(asdict(recipe), indent=1), begun)


def _same(recipe: BaseRecipe, settings: dict, folder: Path) -> None:
    there, here = asdict(BaseRecipe(**settings)), asdict(recipe)
    changed = [f"{name} {there[name]} there, {here[name]} here" for name in here if there[name] != here[name]]
    if changed:
        raise ValueError(
            f"{folder} holds a base made by another recipe ({'; '.join(changed)}): "
            "move the folder away to train anew, or use that recipe"
        )
