"""The recipe of the pocket base."""

from typing import Annotated

from pydantic import Field

from w2w_lib.inputs import checked

SPLIT = "base"  # the identities of the base's training set; no other part of the workbook draws from this split
CODEC_IMAGES = 6000  # that the codec is fitted on


Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@checked
class BaseRecipe:
    """Everything that decides the trained base; the defaults are the shipped model's."""

    people: Count = 20000
    views: Count = 3
    image_size: Count = 64
    latent_channels: Count = 20
    refiner_channels: tuple[Count, Count] = (160, 96)  # of the decoder's network, at 1/8 and 1/4 of the picture's size
    refine_steps: Count = 5000
    refine_batch_size: Count = 64
    refine_learning_rate: Positive = 1e-3
    refine_noise: Share = 0.2  # at most, standard deviations, added to the latents that the decoder is trained on
    channels: Annotated[tuple[Count, ...], Field(min_length=1)] = (128, 192)
    text_width: Count = 128
    text_layers: Count = 3
    text_steps: Count = 6000
    text_batch_size: Count = 64
    text_learning_rate: Positive = 1.5e-3
    captions_per_view: Count = 4
    empty_share: Share = 0.05  # of captions, left empty for classifier-free guidance
    identifier_share: Share = 0.5  # of captions that contain "sks", whoever they describe
    steps: Count = 31500
    summary_share: Share = 0.7  # of batches that see of a caption its summary alone
    face_weight: Positive = 3.0  # of the loss where portraits have their face
    batch_size: Count = 64
    learning_rate: Positive = 8e-4
    warmup_steps: Annotated[int, Field(ge=0)] = 300
    weight_decay: Share = 0.01
    ema_decay: Share = 0.998
    seed: Annotated[int, Field(ge=0)] = 0
