"""The pocket base's training set: people who appear nowhere else, rendered, encoded and captioned."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from w2w_lib.files.atomic import replacing, save_tensors
from w2w_lib.models.prompts import IDENTIFIER
from w2w_lib.people.rendered.captions import VOCABULARY, as_text, caption_features
from w2w_lib.people.rendered.meaning import meaning
from w2w_lib.people.rendered.person import sample_person
from w2w_lib.people.rendered.population import render_population
from w2w_lib.people.rendered.view import sample_view
from w2w_lib.pocket.architecture import MAX_TOKENS, build_tokenizer
from w2w_lib.pocket.codec import PatchCodec, fit_patch_codec
from w2w_lib.pocket.codec_training import refine_codec
from w2w_lib.pocket.recipe import CODEC_IMAGES, SPLIT, BaseRecipe


@dataclass
class BaseData:
    """The cached training set: latents of every view, its tokenised captions, and the features these mention."""

    latents: Float[Tensor, "images channels height width"]
    tokens: Int[Tensor, "images captions tokens"]
    mentioned: Bool[Tensor, "images captions features"]  # by the caption ...
    sizes: Int[Tensor, " features"]  # ... each described by so many numbers ...
    numbers: Float[Tensor, "images numbers"]  # ... which are these
    identified: Bool[Tensor, "images captions"]  # whether the caption contains the identifier
    codec: PatchCodec
    held_out: int  # the last so many images are kept for the printed check


def _render(recipe: BaseRecipe, work: Path) -> UInt8[Tensor, "images 3 height width"]:
    path = work / "images.npy"
    if not path.exists():
        images, _ = render_population(SPLIT, range(recipe.people), recipe.views, recipe.image_size)
        with replacing(path) as partial:
            np.save(partial, images.reshape(-1, *images.shape[2:]), allow_pickle=False)
    return torch.from_numpy(np.load(path, allow_pickle=False)).permute(0, 3, 1, 2)


def with_identifier(caption: str) -> str:
    """The caption with the identifier before its noun, as DreamBooth's instance prompts have it."""
    return re.sub(r"\b(?:a )?(person|man|woman)\b", rf"{IDENTIFIER} \1", caption, count=1)


def _caption(recipe: BaseRecipe) -> dict[str, Tensor]:
    """Tokens, what each caption says and the numbers behind it, for every view of everybody."""
    texts, mentioned, numbers, identified = [], [], [], []
    for index in tqdm(range(recipe.people), desc="captions", unit="person"):
        person = sample_person(SPLIT, index)
        for number in range(recipe.views):
            view = sample_view(SPLIT, index, number)
            meant = meaning(person, view)
            numbers.append([value for values in meant.values() for value in values])
            rng = np.random.default_rng([recipe.seed, index, number])
            for _ in range(recipe.captions_per_view):
                features = {} if rng.random() < recipe.empty_share else caption_features(person, view, rng)
                identified.append(bool(features) and rng.random() < recipe.identifier_share)
                texts.append(with_identifier(as_text(features)) if identified[-1] else as_text(features))
                mentioned.append([name in features for name in meant])
    tokenizer, each = build_tokenizer(VOCABULARY), (len(numbers), recipe.captions_per_view)
    ids = tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True).input_ids
    return {
        "tokens": torch.tensor(ids, dtype=torch.int16).reshape(*each, MAX_TOKENS),
        "mentioned": torch.tensor(mentioned).reshape(*each, -1),
        "sizes": torch.tensor([len(values) for values in meant.values()]),
        "numbers": torch.tensor(numbers),
        "identified": torch.tensor(identified).reshape(each),
    }


def _refined(codec: PatchCodec, recipe: BaseRecipe, images, latents: Tensor, work: Path, compiled: bool) -> PatchCodec:
    kept = work / "refiner.safetensors"
    if not kept.exists():
        trained = refine_codec(
            codec,
            images,
            latents,
            work,
            channels=recipe.refiner_channels,
            steps=recipe.refine_steps,
            batch_size=recipe.refine_batch_size,
            learning_rate=recipe.refine_learning_rate,
            noise=recipe.refine_noise,
            weight=recipe.face_weight,
            seed=recipe.seed,
            compiled=compiled,
        )
        save_tensors(trained.state_dict(), kept)
    refined = PatchCodec(**{**codec.config, "refiner_channels": recipe.refiner_channels})
    refined.load_state_dict(load_file(kept))
    return refined.requires_grad_(False).eval()


def prepare_data(recipe: BaseRecipe, work: Path, compiled: bool = False) -> BaseData:
    """Render the base's people, fit the codec on them, encode and caption every view; cached in ``work``."""
    cache = work / "data.safetensors"
    if not cache.exists():
        pixels = _render(recipe, work)
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(recipe.seed))
        fitted = pixels[order[:CODEC_IMAGES]]
        codec = fit_patch_codec(fitted / 127.5 - 1, recipe.latent_channels)
        with torch.no_grad():
            latents = torch.cat([codec.encoder(part / 127.5 - 1) for part in pixels.split(512)]).contiguous()
        codec_weights = {f"codec.{k}": v for k, v in codec.state_dict().items()}
        save_tensors({"latents": latents, **_caption(recipe), **codec_weights}, cache)
    stored = load_file(cache)
    codec = PatchCodec(latent_channels=recipe.latent_channels)
    codec.load_state_dict({k.removeprefix("codec."): v for k, v in stored.items() if k.startswith("codec.")})
    held_out = min(64, recipe.people // 4) * recipe.views
    kept = {name: tensor for name, tensor in stored.items() if not name.startswith("codec.")}
    seen = slice(None, -held_out)
    codec = _refined(codec, recipe, _render(recipe, work)[seen], stored["latents"][seen], work, compiled)
    return BaseData(**kept, codec=codec, held_out=held_out)
