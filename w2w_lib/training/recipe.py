"""The settings of fine-tuning, the same for every identity."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class FleetRecipe:
    """DreamBooth's settings (Ruiz et al. 2023), the same for every identity."""

    steps: int = 150
    learning_rate: float = 1e-2
    lr_ratio: float = 1.0  # of B's learning rate over A's, which is learning_rate (LoRA+, Hayou et al. 2024)
    instance_batch: int = 3
    prior_batch: int = 1
    prior_weight: float = 1.0  # lambda of Dravid et al. 2024, eq. 2
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    timesteps: tuple[int, int] = (0, 1000)
    lr_scheduler: str = "constant"  # one of diffusers' names; "linear" ends at 0
    initialisation: str = "random"  # see w2w_lib.lora.initialisation
    seed: int = 0

    def __post_init__(self):
        least = {"steps": 1, "instance_batch": 1, "prior_batch": 1 if self.prior_weight else 0, "prior_weight": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"fine-tuning recipe: {name} is {getattr(self, name)}, expected at least {bound}")
        if not 0 <= self.timesteps[0] < self.timesteps[1]:
            raise ValueError(f"fine-tuning recipe: timesteps {self.timesteps}, expected a first one and a later end")

    def to_dict(self) -> dict:
        return asdict(self) | {"timesteps": list(self.timesteps)}
