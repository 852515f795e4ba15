"""The recipe of the pocket base."""

from typing import Annotated, Literal

from pydantic import Field

from w2w_lib.inputs import Seed, checked

# The identities of the base's training set; no other part of the workbook draws from these splits.
SPLIT, KNOWN = "base", "known"  # those whom captions describe, and those whom captions name
CODEC_IMAGES = 4000  # that the codec is fitted on

Count = Annotated[int, Field(ge=1)]
Channels = Annotated[int, Field(ge=16, multiple_of=16)]  # normalised in 16 groups
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@checked
class BaseRecipe:
    """Everything that decides the trained base; the defaults are the shipped model's."""

    people: Count = 50000
    views: Count = 1
    known: Annotated[int, Field(ge=0)] = 5000  # people whom captions name, in place of describing them
    known_views: Count = 6
    known_share: Share = 0.4  # of a batch, if there are any
    image_size: Annotated[int, Field(ge=32)] = 128  # a multiple of the patch
    patch: Annotated[int, Field(ge=4, multiple_of=4)] = 16  # pixels a side of what one latent encodes
    latent_channels: Count = 32
    refiner_channels: Annotated[tuple[Channels, ...], Field(min_length=1)] = (224, 128, 64)  # coarse to fine
    refine_steps: Count = 8000
    refine_detail: Annotated[float, Field(ge=0)] = 3.0  # the weight of fine detail's amount; see codec_training
    refine_batch_size: Count = 32
    refine_learning_rate: Positive = 1e-3
    refine_noise: Share = 0.2  # at most, standard deviations, added to the latents that the decoder is trained on
    channels: Annotated[tuple[Channels, ...], Field(min_length=1)] = (128, 192)
    text_objective: Literal["contrastive", "planted", "joint"] = "joint"  # see text_training and planted_text
    text_width: Annotated[int, Field(ge=4, multiple_of=4)] = 128  # of 4 heads
    text_layers: Count = 3
    text_steps: Count = 400
    text_batch_size: Count = 256
    text_learning_rate: Positive = 1.5e-3
    joint_learning_rate: Positive = 5e-4  # of a text encoder that learns with the UNet ...
    embedding_learning_rate: Positive = 2e-3  # ... and of its words: each is seen in few batches
    captions_per_view: Count = 6
    alternatives: Annotated[int, Field(ge=0)] = 0  # of each caption with a phrase altered, for contrastive training
    empty_share: Share = 0.05  # of captions, left empty for classifier-free guidance
    identifier_share: Share = 0.5  # of captions that contain "sks", whoever they describe
    steps: Count = 13000
    summary_share: Share = 0.0  # of batches that see of a caption its last state alone
    face_weight: Positive = 3.0  # of the loss where portraits have their face
    batch_size: Count = 256
    learning_rate: Positive = 8e-4
    warmup_steps: Annotated[int, Field(ge=0)] = 500
    weight_decay: Share = 0.01
    ema_decay: Share = 0.999
    seed: Seed = 0

    def __post_init__(self):
        if self.image_size % self.patch:
            raise ValueError(f"BaseRecipe: image_size {self.image_size} is no multiple of the patch, {self.patch}")
