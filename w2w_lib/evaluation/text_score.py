"""Does a picture show what a text says? The CLIP score, by CLIP or by another network that embeds both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from w2w_lib.evaluation.pictures import as_pictures
from w2w_lib.inputs import described, instance
from w2w_lib.models.prompts import check_prompts

SCALE = 100  # of the cosine, as is usual; Hessel et al. 2021 have 2.5
TOGETHER = 32  # pictures embedded at once
REMEDY = "name a folder that transformers saved CLIP to, or fetch it: `hf download openai/clip-vit-large-patch14`"


@runtime_checkable
class TextScorer(Protocol):
    """What embeds pictures and texts in one space, in rows of length 1, and is named in every table of its scores."""

    name: str

    def embed_images(self, images: UInt8[np.ndarray, "batch height width 3"]) -> Float[Tensor, "batch dim"]: ...

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]: ...


def text_score(
    images: UInt8[np.ndarray, "batch height width 3"], texts: str | Sequence[str], scorer: TextScorer
) -> Float[np.ndarray, " batch"]:
    """100 times the cosine of each picture and its text, or the one text (Hessel et al. 2021), not clipped at 0.

    The paper (Dravid et al. 2024, Table 1) reports how much it rises with an edit. ValueError where there is not a
    text for each picture.
    """
    instance("scorer", scorer, TextScorer, "a ClipScorer or DualEncoder")
    images, texts = as_pictures(images), [texts] if isinstance(texts, str) else texts
    check_prompts(texts)
    if len(texts) not in (1, len(images)):
        raise ValueError(f"{len(texts)} texts for {len(images)} pictures: expected one for each, or one for all")
    different = list(dict.fromkeys(texts))
    rows = [different.index(text) for text in texts]
    return SCALE * (scorer.embed_images(images) * scorer.embed_texts(different)[rows]).sum(1).double().numpy()


class ClipScorer:
    """CLIP (Radford et al. 2021) as transformers has it; ``name`` is that of its folder or its hub id."""

    def __init__(self, model: CLIPModel, processor: CLIPProcessor, name: str) -> None:
        self.model, self.processor, self.name = model.eval().requires_grad_(False), processor, f"CLIP ({name})"

    @classmethod
    def load(cls, source: str | Path) -> "ClipScorer":
        """CLIP of a folder, or of a hub id that the hub's cache has; nothing is downloaded.

        FileNotFoundError where it is neither, ValueError for a folder that holds no CLIP in safetensors.
        """
        if not isinstance(source, str | Path) or not str(source):
            raise ValueError(f"CLIP {described(source)}: expected a folder or a hub id; {REMEDY}")
        folder = Path(source).expanduser()
        try:
            options = {"local_files_only": True, "trust_remote_code": False}
            place = folder if folder.is_dir() else str(source)
            model, loaded = CLIPModel.from_pretrained(
                place, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **options
            )
            processor = CLIPProcessor.from_pretrained(place, **options)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if folder.is_dir():
                raise ValueError(f"{source}: holds no CLIP that can be read ({reason}); {REMEDY}") from None
            raise FileNotFoundError(f"{source}: no such folder, and no cached hub id; {REMEDY}") from None
        if absent := sorted(loaded["missing_keys"]):
            raise ValueError(f"{source}: lacks {absent[0]!r} and {len(absent) - 1} more of CLIP's tensors; {REMEDY}")
        return cls(model, processor, folder.name if folder.is_dir() else str(source))

    @torch.no_grad()
    def embed_images(self, images: UInt8[np.ndarray, "batch height width 3"]) -> Float[Tensor, "batch dim"]:
        """Pictures in CLIP's space, of length 1."""
        images, rows = as_pictures(images), [torch.zeros(0, self.model.config.projection_dim)]
        for first in range(0, len(images), TOGETHER):
            pictures = [Image.fromarray(image) for image in images[first : first + TOGETHER]]
            pixels = self.processor(images=pictures, return_tensors="pt").pixel_values
            seen = self.model.vision_model(pixel_values=pixels).pooler_output
            rows.append(F.normalize(self.model.visual_projection(seen), dim=-1))
        return torch.cat(rows)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """Texts in CLIP's space, of length 1; what is beyond its 77 tokens is cut."""
        check_prompts(texts)
        tokens = self.processor(text=list(texts), padding=True, truncation=True, return_tensors="pt")
        read = self.model.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
        return F.normalize(self.model.text_projection(read), dim=-1)
