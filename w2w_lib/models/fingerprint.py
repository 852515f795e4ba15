"""What a base model is, as sixteen digits."""

import hashlib
import json

import torch
from diffusers import StableDiffusionPipeline


def fingerprint(pipeline: StableDiffusionPipeline) -> str:
    """Sixteen hexadecimal digits that identify a base model: the hash of its UNet's configuration and weights."""
    unet = pipeline.unet
    digest = hashlib.sha256(json.dumps(dict(unet.config), sort_keys=True, default=str).encode())
    for name, tensor in sorted(unet.state_dict().items()):
        digest.update(name.encode())
        # Rounded to bf16, the coarsest precision it is opened in, so that a base is itself in each of them.
        digest.update(tensor.detach().cpu().to(torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
