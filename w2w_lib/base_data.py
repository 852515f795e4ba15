"""The pocket base's training set: people who appear nowhere else, rendered, encoded and captioned."""

import re
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from w2w_lib.atomic import replacing, save_tensors
from w2w_lib.base_model import IDENTIFIER, MAX_TOKENS, build_tokenizer
from w2w_lib.codec import PatchCodec, fit_patch_codec
from w2w_lib.codec_training import refine_codec
from w2w_lib.population import (
    VOCABULARY,
    as_text,
    caption_features,
    meaning,
    render_population,
    sample_person,
    sample_view,
)

SPLIT = "base"  # the identities of the base's training set; no other part of the workbook draws from this split
CODEC_IMAGES = 6000  # that the codec is fitted on


@dataclass(frozen=True)
class BaseRecipe:
    """Everything that decides the trained base; the defaults are the shipped model's."""

    people: int = 20000
    views: int = 3
    image_size: int = 64
    latent_channels: int = 20
    refiner_channels: tuple[int, int] = (160, 96)  # of the decoder's network, at 1/8 and 1/4 of the picture's size
    refine_steps: int = 5000
    refine_batch_size: int = 64
    refine_learning_rate: float = 1e-3
    refine_noise: float = 0.2  # at most, on the latents that the decoder learns from
    channels: tuple[int, ...] = (128, 192)
    text_width: int = 128
    text_layers: int = 3
    text_steps: int = 6000
    text_batch_size: int = 64
    text_learning_rate: float = 1.5e-3
    captions_per_view: int = 4
    empty_share: float = 0.05  # of captions, left empty for classifier-free guidance
    identifier_share: float = 0.5  # of captions that say "sks", of anybody: it means nothing, but it is heard
    steps: int = 31500
    summary_share: float = 0.7  # of batches that see of a caption its summary alone
    face_weight: float = 3.0  # of the loss where portraits have their face
    batch_size: int = 64
    learning_rate: float = 8e-4
    warmup_steps: int = 300
    weight_decay: float = 0.01
    ema_decay: float = 0.998
    seed: int = 0

    @classmethod
    def of(cls, settings: dict) -> "BaseRecipe":
        """The default recipe with the given fields changed; ValueError for one that there is not."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise ValueError(f"base recipe: no {', '.join(unknown)}; expected some of {', '.join(known)}")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})


@dataclass
class BaseData:
    """The cached training set: latents of every view, several tokenised captions of each, and what those speak of."""

    latents: Float[Tensor, "images channels height width"]
    tokens: Int[Tensor, "images captions tokens"]
    said: Bool[Tensor, "images captions features"]  # what each caption speaks of ...
    sizes: Int[Tensor, " features"]  # ... in how many numbers ...
    numbers: Float[Tensor, "images numbers"]  # ... and what they are
    identified: Bool[Tensor, "images captions"]  # whether it says the identifier
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
    texts, said, numbers, identified = [], [], [], []
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
                said.append([name in features for name in meant])
    tokenizer, each = build_tokenizer(VOCABULARY), (len(numbers), recipe.captions_per_view)
    ids = tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True).input_ids
    return {
        "tokens": torch.tensor(ids, dtype=torch.int16).reshape(*each, MAX_TOKENS),
        "said": torch.tensor(said).reshape(*each, -1),
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
