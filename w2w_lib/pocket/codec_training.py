"""Train the codec's refiner: what a linear decoder blurs, a network that has seen many faces can add."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from w2w_lib.evaluation.lpips import LPIPS, SMALLEST
from w2w_lib.files.atomic import replacing
from w2w_lib.pocket.codec import PatchCodec
from w2w_lib.training import compilation

FACE = (0.25, 0.25, 0.875, 0.75)  # top, left, bottom, right of a portrait's face, in parts of the picture
CROP = 0.75  # of a picture's side, that LPIPS sees
FLAT = 3e-3  # differences of pixels in [-1, 1] below this are none
WINDOW = 8  # pixels a side, within which detail may lie elsewhere


def face_weight(height: int, width: int, weight: float) -> Float[Tensor, "height width"]:
    """``weight`` where portraits have their face and 1 elsewhere, scaled to a mean of 1."""
    weights = torch.ones(height, width)
    top, left, bottom, right = FACE
    weights[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = weight
    return weights / weights.mean()


def fine_detail(images: Float[Tensor, "batch 3 height width"]) -> list[Float[Tensor, "batch 1 rows columns"]]:
    """How much is fine in each of overlapping windows: the root mean square of first and second differences.

    The L1 distance of pixels is least for a blur where it is not known in which pixel a hair lies; this is the same
    wherever in a window it is painted (after the texture loss of Sajjadi et al. 2017).
    """
    squares = [images.diff(order, axis).square().mean(1, keepdim=True) for order in (1, 2) for axis in (-1, -2)]
    return [(F.avg_pool2d(square, WINDOW, WINDOW // 2) + FLAT**2).sqrt() for square in squares]


def refine_codec(
    linear: PatchCodec,
    pixels: UInt8[Tensor, "images 3 height width"],
    latents: Float[Tensor, "images channels cells cells"],
    work: Path,
    *,
    channels: Sequence[int] = (224, 128, 64),
    steps: int = 5000,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    noise: float = 0.2,
    weight: float = 3.0,
    edges: float = 1.0,
    perceptual: float = 1.0,
    detail: float = 3.0,
    seed: int = 0,
    device: str = "cpu",
    compiled: bool = False,
    checkpoint_every: int = 500,
) -> PatchCodec:
    """The linear codec with a refiner trained on ``pixels``; continues from its checkpoint in ``work``.

    The loss is the L1 distance of pixels (the face's weighted by ``weight``), ``edges`` times that of their differences
    along rows and columns, ``perceptual`` times LPIPS, and ``detail`` times that of what is fine in every small window.
    LPIPS sees a crop at a random place: its first layer looks at every fourth pixel, and would else leave a grid. The
    latents get up to ``noise`` standard deviations of noise: what a diffusion model samples is not exact either, and
    the decoder learns to paint a clean face from it.
    """
    torch.manual_seed(seed)
    codec = PatchCodec(**{**linear.config, "refiner_channels": channels})
    codec.load_state_dict(linear.state_dict(), strict=False)
    codec.requires_grad_(False).to(device)
    refiner = codec.refiner.requires_grad_().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(refiner.parameters(), learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    schedule = OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.05)
    parts = {"refiner": refiner, "optimizer": optimizer, "schedule": schedule}
    checkpoint, done = work / "refiner.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        done = state.pop("step")
        for name, part in parts.items():
            part.load_state_dict(state[name])
    forward = compilation.compiled(refiner) if compiled else refiner
    loss_of = _Loss(face_weight(*pixels.shape[-2:], weight).to(device), edges, perceptual, detail)
    bar = tqdm(total=steps, initial=done, desc="refine codec", unit="step", mininterval=10)
    for step in range(done, steps):
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(pixels), (batch_size,), generator=rng)
        shaken = noise * torch.rand(batch_size, 1, 1, 1, generator=rng)
        z = (latents[rows] + shaken * torch.randn(latents[rows].shape, generator=rng)).to(device)
        truth = pixels[rows].to(device) / 127.5 - 1
        with torch.autocast(z.device.type, torch.bfloat16):
            refined = forward(z.contiguous(memory_format=torch.channels_last))
        terms = loss_of(codec.decoder(z) + refined.float(), truth, rng)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        torch.nn.utils.clip_grad_norm_(refiner.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        bar.update()
        if (step + 1) % checkpoint_every == 0 or step + 1 == steps:
            bar.write(f"refine codec: step {step + 1}, " + ", ".join(f"{k} {v.item():.4f}" for k, v in terms.items()))
            with replacing(checkpoint) as partial:
                torch.save({name: part.state_dict() for name, part in parts.items()} | {"step": step + 1}, partial)
    bar.close()
    return codec.requires_grad_(False).eval().cpu()


class _Loss:
    """The terms of the loss by name, each with its weight; LPIPS is loaded only if it has one."""

    def __init__(self, weights: Float[Tensor, "height width"], edges: float, perceptual: float, detail: float):
        self.weights, self.edges, self.perceptual, self.detail = weights, edges, perceptual, detail
        self.lpips = LPIPS.load().to(weights.device) if perceptual else None

    def __call__(self, images: Tensor, truth: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        terms = {"pixels": ((images - truth).abs() * self.weights).mean()}
        if self.edges:
            along = [F.l1_loss(images.diff(dim=axis), truth.diff(dim=axis)) for axis in (-1, -2)]
            terms["edges"] = self.edges * sum(along)
        if self.detail:
            amounts = zip(fine_detail(images), fine_detail(truth), strict=True)
            terms["detail"] = self.detail * sum(F.l1_loss(*pair) for pair in amounts)
        if self.lpips:
            with torch.autocast(images.device.type, torch.bfloat16):
                seen, wanted = _cropped(images, truth, rng)
                with torch.no_grad():
                    features = self.lpips.features(wanted)
                terms["LPIPS"] = self.perceptual * self.lpips.distance(self.lpips.features(seen), features).mean()
        return terms


def _cropped(images: Tensor, truth: Tensor, rng: torch.Generator) -> list[Tensor]:
    """The same crop of both, at a random place."""
    sides = images.shape[-2:]
    height, width = (max(SMALLEST, round(CROP * side)) for side in sides)
    top, left = torch.rand(2, generator=rng).mul(torch.tensor(sides) - torch.tensor([height, width]) + 1).int().tolist()
    return [one[..., top : top + height, left : left + width] for one in (images, truth)]
