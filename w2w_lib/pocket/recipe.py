"""The recipe of the pocket base."""

from dataclasses import dataclass, fields

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
