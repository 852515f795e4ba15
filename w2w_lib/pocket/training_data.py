"""The pocket base's training set: people who appear nowhere else, rendered, encoded and captioned."""

import re
from collections import deque
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTokenizer

from w2w_lib.files.atomic import replacing, save_tensors
from w2w_lib.models.prompts import IDENTIFIER
from w2w_lib.parallel import in_order, worker_count
from w2w_lib.people.rendered.captions import VOCABULARY, all_features, altered, as_text, caption_features, view_phrases
from w2w_lib.people.rendered.meaning import meaning
from w2w_lib.people.rendered.names import known_names
from w2w_lib.people.rendered.person import Person, sample_person
from w2w_lib.people.rendered.population import render_population
from w2w_lib.people.rendered.view import View, sample_view
from w2w_lib.pocket.architecture import MAX_TOKENS, build_tokenizer
from w2w_lib.pocket.codec import PatchCodec, fit_patch_codec
from w2w_lib.pocket.codec_training import refine_codec
from w2w_lib.pocket.recipe import CODEC_IMAGES, KNOWN, SPLIT, BaseRecipe

OTHERS = 64  # pictures whose phrases alter the captions of the next ones
CAPTIONED = 250  # people at a time


@dataclass
class BaseData:
    """The cached training set: latents of every view, its tokenised captions, and the features these mention."""

    latents: Float[Tensor, "images channels height width"]
    tokens: Int[Tensor, "images captions tokens"]
    contrasted: Int[Tensor, "images captions versions tokens"]  # a caption, then with one phrase of another picture;
    # without the identifier, which the text encoder has to keep apart from words, not learn to overlook
    mentioned: Bool[Tensor, "images captions features"]  # by the caption ...
    sizes: Int[Tensor, " features"]  # ... each described by so many numbers ...
    numbers: Float[Tensor, "images numbers"]  # ... which are these
    identified: Bool[Tensor, "images captions"]  # whether the caption contains the identifier
    codec: PatchCodec
    known: int  # the first so many images are of people whom captions name ...
    held_out: int  # ... and the last so many are kept for the printed check

    def to(self, device: str) -> "BaseData":
        """The same on another device; the codec stays where it is."""
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        return BaseData(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in kept.items()})


def _render(recipe: BaseRecipe, work: Path) -> UInt8[Tensor, "images 3 height width"]:
    path = work / "images.npy"
    if not path.exists():
        parts = [
            render_population(split, range(people), views, recipe.image_size)[0]
            for split, people, views in _groups(recipe)
            if people
        ]
        with replacing(path) as partial:
            np.save(partial, np.concatenate([part.reshape(-1, *part.shape[2:]) for part in parts]), allow_pickle=False)
    return torch.from_numpy(np.load(path, allow_pickle=False)).permute(0, 3, 1, 2)


def _groups(recipe: BaseRecipe) -> list[tuple[str, int, int]]:
    """Split, people and views of those whom captions name and of those whom captions describe."""
    return [(KNOWN, recipe.known, recipe.known_views), (SPLIT, recipe.people, recipe.views)]


def with_name(caption: str, name: str) -> str:
    """The caption with a name in place of its noun."""
    return re.sub(r"\b(?:a )?(person|man|woman)\b", name, caption, count=1)


def with_identifier(caption: str) -> str:
    """The caption with the identifier before its noun, as DreamBooth's instance prompts have it."""
    return re.sub(r"\b(?:a )?(person|man|woman)\b", rf"{IDENTIFIER} \1", caption, count=1)


@cache
def tokenizer_of(known: int) -> CLIPTokenizer:
    """The tokenizer of a base that knows so many names."""
    return build_tokenizer([*VOCABULARY, *known_names(known)])


def _caption(recipe: BaseRecipe) -> dict[str, Tensor]:
    """Tokens, what each caption says and the numbers behind it, for every view of everybody."""
    parts = [
        (recipe, split, range(first, min(first + CAPTIONED, people)), views)
        for split, people, views in _groups(recipe)
        for first in range(0, people, CAPTIONED)
    ]
    captioned = in_order(_caption_part, parts, worker_count(None))
    done = [*tqdm(captioned, "captions", len(parts), unit_scale=CAPTIONED, unit="person")]
    sizes = [len(values) for values in meaning(sample_person(SPLIT, 0), sample_view(SPLIT, 0, 0)).values()]
    tensors = {name: torch.from_numpy(np.concatenate([part[name] for part in done])) for name in done[0]}
    return tensors | {"sizes": torch.tensor(sizes)}


def _features(split: str, person: Person, view: View, rng: np.random.Generator) -> dict[str, str]:
    """What a random caption says; where people have names, only what is not the person."""
    said = caption_features(person, view, rng)
    shown = {"opening", "gender", *view_phrases(view)}
    return said if split == SPLIT else {name: phrase for name, phrase in said.items() if name in shown}


def _caption_part(recipe: BaseRecipe, split: str, people: range, views: int) -> dict[str, np.ndarray]:
    """The captions of some; the first of them are altered with phrases of those before them."""
    texts, mentioned, numbers, identified, names = [], [], [], [], known_names(recipe.known)
    before = range(OTHERS) if people.start < OTHERS else range(people.start - OTHERS, people.start)
    others = deque([all_features(sample_person(split, i), sample_view(split, i, 0)) for i in before], OTHERS)
    for index in people:
        person = sample_person(split, index)
        for number in range(views):
            view = sample_view(split, index, number)
            meant = meaning(person, view)
            numbers.append([value for values in meant.values() for value in values])
            rng = np.random.default_rng([recipe.seed, index, number])
            for _ in range(recipe.captions_per_view):
                features = {} if rng.random() < recipe.empty_share else _features(split, person, view, rng)
                identified.append(split == SPLIT and bool(features) and rng.random() < recipe.identifier_share)
                wrong = [altered(features, others[rng.integers(OTHERS)], rng) for _ in range(recipe.alternatives)]
                plain, *wrong = (as_text(one) for one in (features, *wrong))
                if split == KNOWN:
                    plain, *wrong = (with_name(text, names[index]) for text in (plain, *wrong))
                texts += [with_identifier(plain) if identified[-1] else plain, plain, *wrong]
                mentioned.append([name in features for name in meant])
            others.append(all_features(person, view))
    tokenizer, each = tokenizer_of(recipe.known), (len(numbers), recipe.captions_per_view)
    found = tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True).input_ids
    tokens = np.array(found, np.int16).reshape(*each, 2 + recipe.alternatives, MAX_TOKENS)
    return {
        "tokens": tokens[:, :, 0],
        "contrasted": tokens[:, :, 1:],
        "mentioned": np.array(mentioned).reshape(*each, -1),
        "numbers": np.array(numbers, np.float32),
        "identified": np.array(identified).reshape(each),
    }


def prepare_data(recipe: BaseRecipe, work: Path) -> BaseData:
    """Render the base's people, fit the linear codec on them, encode and caption every view; cached in ``work``."""
    cache = work / "data.safetensors"
    if not cache.exists():
        pixels = _render(recipe, work)
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(recipe.seed))
        fitted = pixels[order[:CODEC_IMAGES]]
        codec = fit_patch_codec(fitted / 127.5 - 1, recipe.latent_channels, recipe.patch)
        with torch.no_grad():
            latents = torch.cat([codec.encoder(part / 127.5 - 1) for part in pixels.split(512)]).contiguous()
        codec_weights = {f"codec.{k}": v for k, v in codec.state_dict().items()}
        save_tensors({"latents": latents, **_caption(recipe), **codec_weights}, cache)
    stored = load_file(cache)
    codec = PatchCodec(latent_channels=recipe.latent_channels, patch=recipe.patch)
    codec.load_state_dict({k.removeprefix("codec."): v for k, v in stored.items() if k.startswith("codec.")})
    held_out = min(64, recipe.people // 4) * recipe.views
    kept = {name: tensor for name, tensor in stored.items() if not name.startswith("codec.")}
    return BaseData(**kept, codec=codec, known=recipe.known * recipe.known_views, held_out=held_out)


def refined_codec(
    recipe: BaseRecipe, data: BaseData, work: Path, device: str = "cpu", compiled: bool = False
) -> PatchCodec:
    """The codec with its refiner, trained on the pictures of ``data``; kept in ``work``."""
    kept = work / "refiner.safetensors"
    if not kept.exists():
        seen = slice(None, -data.held_out)
        trained = refine_codec(
            data.codec,
            _render(recipe, work)[seen],
            data.latents[seen],
            work,
            channels=recipe.refiner_channels,
            steps=recipe.refine_steps,
            batch_size=recipe.refine_batch_size,
            learning_rate=recipe.refine_learning_rate,
            noise=recipe.refine_noise,
            weight=recipe.face_weight,
            detail=recipe.refine_detail,
            seed=recipe.seed,
            device=device,
            compiled=compiled,
        )
        save_tensors(trained.state_dict(), kept)
    refined = PatchCodec(**{**data.codec.config, "refiner_channels": recipe.refiner_channels})
    refined.load_state_dict(load_file(kept))
    return refined.requires_grad_(False).eval()
