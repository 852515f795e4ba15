"""The prompts that pictures are trained with: each distinct one encoded once, each picture's by its row."""

import hashlib
import json
from collections.abc import Mapping, Sequence

import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Int
from torch import Tensor

from w2w_lib.inputs import instance
from w2w_lib.models.prompts import CLASS_PROMPT, INSTANCE_PROMPT, check_prompts, encode_prompts, in_context

Contexts = Mapping[str, Sequence[str]]  # by identity, what each of its pictures shows beside the person


class PromptTable:
    """Text states of all prompts of a fleet, ``states``, and which of them each picture has.

    ``contexts`` names by identity what each of its pictures shows beside the person, ``prior_contexts`` the same of
    each of ``priors`` class pictures; where a context is empty or not given, the prompt is the plain one. ValueError
    for contexts that are no texts, and not one for each class picture.
    """

    def __init__(
        self, pipeline: StableDiffusionPipeline, contexts: Contexts, prior_contexts: Sequence[str], priors: int
    ):
        instance("contexts", contexts, Mapping)
        for own in (*contexts.values(), prior_contexts):
            if len(own):
                check_prompts(own)
        if len(prior_contexts) not in (0, priors):
            raise ValueError(f"{len(prior_contexts)} contexts for {priors} class pictures: expected one for each")
        self._contexts, self.class_prompts = contexts, [in_context(CLASS_PROMPT, c) for c in prior_contexts]
        index = {INSTANCE_PROMPT: 0}

        def rows(prompts: list[str]) -> Int[Tensor, " pictures"]:
            return torch.tensor([index.setdefault(prompt, len(index)) for prompt in prompts], dtype=torch.long)

        self.prior = rows(self.class_prompts or [CLASS_PROMPT] * priors)
        self._rows = {i: rows([in_context(INSTANCE_PROMPT, c) for c in own]) for i, own in contexts.items()}
        self.states = encode_prompts(pipeline, list(index))

    def of(self, identity: str, pictures: int) -> Int[Tensor, " pictures"]:
        """Rows of ``states`` for each picture of an identity; ValueError where it has another number of contexts."""
        rows = self._rows.get(identity)
        if rows is None:
            return torch.zeros(pictures, dtype=torch.long)
        if len(rows) != pictures:
            raise ValueError(f"{identity}: {len(rows)} contexts for {pictures} pictures; expected one for each")
        return rows

    def learned(self, identity: str, pictures: str | None) -> str | None:
        """A fingerprint of an identity's pictures together with their contexts, if it has some."""
        own = self._contexts.get(identity)
        return pictures if own is None else texts_fingerprint([pictures, *own])


def texts_fingerprint(texts: Sequence[str | None]) -> str:
    """Sixteen hexadecimal digits that identify a list of texts."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]
