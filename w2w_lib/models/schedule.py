"""Noise schedules: which of them a base may have, and which timesteps it knows."""

import torch
from diffusers import DDIMScheduler, SchedulerMixin

from w2w_lib.inputs import whole_number

PREDICTION_TYPES = ("epsilon", "v_prediction")  # what a UNet may predict of a noisy picture


def as_ddim(scheduler: SchedulerMixin) -> DDIMScheduler:
    """DDIM with the noise of another scheduler; what that does not say, as Stable Diffusion has it.

    ValueError for a schedule that the denoising objective does not fit: without betas, with betas out of range or not
    one for each timestep, of flow matching, or with another prediction type than noise and velocity.
    """
    config, unsaid = scheduler.config, {"clip_sample": False, "steps_offset": 1}
    name = type(scheduler).__name__
    if getattr(scheduler, "betas", None) is None or config.get("use_flow_sigmas"):
        raise ValueError(f"scheduler {name} has no betas; expected a scheduler of noise- or v-prediction, such as DDIM")
    prediction_type(scheduler)
    by_default = config.get("_use_default_values", [])
    filled = {name: value for name, value in unsaid.items() if name not in config or name in by_default}
    ddim = DDIMScheduler.from_config(config, **filled)
    betas, signal = ddim.betas, ddim.alphas_cumprod
    if len(betas) != config.num_train_timesteps:
        raise ValueError(
            f"scheduler {name} has {len(betas)} betas for {config.num_train_timesteps} timesteps; expected one for each"
        )
    if not bool(((betas >= 0) & (betas <= 1)).all()) or not signal[0] > 0:
        low, high = betas.min().item(), betas.max().item()
        raise ValueError(f"scheduler {name} has betas from {low} to {high}; expected numbers between 0 and 1")
    if config.prediction_type == "epsilon" and not signal[-1] > 0:
        raise ValueError(
            f"scheduler {name} ends in pure noise, of which nothing can be told by predicting the noise; "
            "expected prediction_type 'v_prediction' with rescale_betas_zero_snr"
        )
    return ddim


def prediction_type(scheduler: SchedulerMixin) -> str:
    """``epsilon`` or ``v_prediction``; ValueError for another."""
    kind = scheduler.config.get("prediction_type")
    if kind not in PREDICTION_TYPES:
        raise ValueError(
            f"prediction_type {kind!r} of the scheduler: expected one of {', '.join(PREDICTION_TYPES)}; "
            "use a base that predicts noise or velocity"
        )
    return kind


def check_timesteps(scheduler: SchedulerMixin, timesteps: torch.Tensor) -> None:
    """ValueError for a timestep that the scheduler has no noise level for."""
    count = scheduler.config.num_train_timesteps
    first, last = (int(bound) for bound in timesteps.aminmax())
    if first < 0 or last >= count:
        raise ValueError(f"timesteps from {first} to {last}: expected whole numbers from 0 to {count - 1}")


def timestep_range(between: tuple[int, int], count: int | None = None) -> tuple[int, int]:
    """The range [first, last) of timesteps to draw from, within the scheduler's ``count``; ValueError if it is none."""
    try:
        first, last = between
    except (TypeError, ValueError):
        raise ValueError(f"timesteps {between!r}: expected two numbers, the first and the one after the last") from None
    first = whole_number("first timestep", first, least=0)
    return first, whole_number("timestep after the last", last, least=first + 1, most=count)
