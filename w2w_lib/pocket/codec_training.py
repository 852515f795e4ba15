"""Train the codec's refiner: what a linear decoder blurs, a network that has seen many faces can add."""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from w2w_lib.files.atomic import replacing
from w2w_lib.pocket.codec import PatchCodec
from w2w_lib.training import compilation

FACE = (0.25, 0.25, 0.875, 0.75)  # top, left, bottom, right of a portrait's face, in parts of the picture


def face_weight(height: int, width: int, weight: float) -> Float[Tensor, "height width"]:
    """``weight`` where portraits have their face and 1 elsewhere, scaled to a mean of 1."""
    weights = torch.ones(height, width)
    top, left, bottom, right = FACE
    weights[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = weight
    return weights / weights.mean()


def refine_codec(
    linear: PatchCodec,
    pixels: UInt8[Tensor, "images 3 height width"],
    latents: Float[Tensor, "images channels cells cells"],
    work: Path,
    *,
    channels: tuple[int, int] = (160, 96),
    steps: int = 5000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    noise: float = 0.2,
    weight: float = 3.0,
    seed: int = 0,
    compiled: bool = False,
    checkpoint_every: int = 500,
) -> PatchCodec:
    """The linear codec with a refiner trained on ``pixels``; continues from its checkpoint in ``work``.

    The loss is the L1 distance of pixels and of their differences along rows and columns, so edges count twice. The
    latents get up to ``noise`` standard deviations of noise: what a diffusion model samples is not exact either, and
    the decoder learns to paint a clean face from it.
    """
    torch.manual_seed(seed)
    codec = PatchCodec(**{**linear.config, "refiner_channels": channels})
    codec.load_state_dict(linear.state_dict(), strict=False)
    codec.requires_grad_(False)
    refiner = codec.refiner.requires_grad_().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(refiner.parameters(), learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    schedule = OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.05)
    parts = {"refiner": refiner, "optimizer": optimizer, "schedule": schedule}
    checkpoint, done = work / "refiner.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        done = state.pop("step")
        for name, part in parts.items():
            part.load_state_dict(state[name])
    forward = compilation.compiled(refiner) if compiled else refiner
    weights = face_weight(*pixels.shape[-2:], weight)
    bar = tqdm(total=steps, initial=done, desc="refine codec", unit="step", mininterval=10)
    for step in range(done, steps):
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(pixels), (batch_size,), generator=rng)
        shaken = noise * torch.rand(batch_size, 1, 1, 1, generator=rng)
        z = latents[rows] + shaken * torch.randn(latents[rows].shape, generator=rng)
        truth = pixels[rows] / 127.5 - 1
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            refined = forward(z.contiguous(memory_format=torch.channels_last))
        loss = _distance(codec.decoder(z) + refined.float(), truth, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(refiner.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        bar.update()
        if (step + 1) % checkpoint_every == 0 or step + 1 == steps:
            bar.write(f"refine codec: step {step + 1}, loss {loss.item():.4f}")
            with replacing(checkpoint) as partial:
                torch.save({name: part.state_dict() for name, part in parts.items()} | {"step": step + 1}, partial)
    bar.close()
    return codec.requires_grad_(False).eval()


def _distance(image: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    error = image - truth
    edges = F.l1_loss(image.diff(dim=-1), truth.diff(dim=-1)) + F.l1_loss(image.diff(dim=-2), truth.diff(dim=-2))
    return (error.abs() * weights).mean() + edges
