"""Which numbers of which modules form one weight vector weights, and in which order."""

import json
from dataclasses import asdict, dataclass
from math import isfinite

import torch
from jaxtyping import Float
from torch import Tensor, nn

PEFT_PREFIX = "base_model.model."

# The paper's layers (Dravid et al. 2024, §4.1) and those of the authors' released weights.
TARGETS = {
    "paper": ("attn2.to_k", "attn2.to_v"),
    "release": ("attn1.to_q", "attn1.to_v", "attn2.to_q", "attn2.to_v"),
}


@dataclass(frozen=True)
class Factor:
    """One LoRA factor: the PEFT key of a down (A: rank x in) or up (B: out x rank) projection."""

    key: str
    shape: tuple[int, int]

    @property
    def module(self) -> str:
        return self.key.removeprefix(PEFT_PREFIX).rsplit(".lora_", 1)[0]

    @property
    def is_down(self) -> bool:
        return ".lora_A." in self.key

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class AdapterLayout:
    """The order and shapes of a LoRA's factors within weights, with rank, alpha and the base they belong to.

    Factors are sorted by PEFT key (down < mid < up; attn1 < attn2; A before B), the order of the authors' release.
    """

    factors: tuple[Factor, ...]
    rank: int
    alpha: float
    targets: tuple[str, ...]
    base: str  # fingerprint of the base model

    @classmethod
    def of(
        cls, unet: nn.Module, base: str, targets: str | tuple[str, ...] = "paper", rank: int = 1, alpha: float = 1.0
    ) -> "AdapterLayout":
        """The layout of rank-``rank`` adapters on all linear modules of ``unet`` whose name ends in a target."""
        if isinstance(targets, str):
            if targets not in TARGETS:
                raise ValueError(f"unknown target modules {targets!r}: expected one of {sorted(TARGETS)} or a tuple")
            targets = TARGETS[targets]
        if rank != int(rank) or rank < 1:
            raise ValueError(f"rank {rank}: expected a whole number of at least 1")
        if not isfinite(alpha) or not alpha:
            raise ValueError(f"alpha {alpha}: expected a finite number other than 0")
        if not targets:
            raise ValueError("no target modules: expected at least one")
        adapted = {}
        for target in targets:
            found = {n: m for n, m in unet.named_modules() if f".{n}".endswith(f".{target}") and _is_linear(m)}
            if not found:
                linears = sorted({".".join(n.split(".")[-2:]) for n, m in unet.named_modules() if _is_linear(m)})
                raise ValueError(f"target module {target!r}: the base has none; it has {', '.join(linears)}")
            adapted |= found
        factors = []
        for name, module in adapted.items():
            factors.append(Factor(f"{PEFT_PREFIX}{name}.lora_A.weight", (rank, module.in_features)))
            factors.append(Factor(f"{PEFT_PREFIX}{name}.lora_B.weight", (module.out_features, rank)))
        return cls(tuple(sorted(factors, key=lambda f: f.key)), rank, float(alpha), tuple(targets), base)

    @property
    def dimension(self) -> int:
        """Length d of weights."""
        return sum(f.size for f in self.factors)

    @property
    def scale(self) -> float:
        """Factor on BA: alpha / rank."""
        return self.alpha / self.rank

    def unflatten(self, weights: Float[Tensor, "models d"]) -> dict[str, Float[Tensor, "models rows columns"]]:
        """Factors by PEFT key, as differentiable views of weights."""
        if weights.shape[-1] != self.dimension:
            raise ValueError(f"weights has {weights.shape[-1]} numbers, this layout {self.dimension}: another layout?")
        parts = weights.split([f.size for f in self.factors], dim=-1)
        return {f.key: p.unflatten(-1, f.shape) for f, p in zip(self.factors, parts, strict=True)}

    def flatten(self, factors: dict[str, Float[Tensor, "*models rows columns"]]) -> Float[Tensor, "*models d"]:
        """Theta of factors by PEFT key; raises ValueError where keys or shapes differ from the layout."""
        expected = {f.key: f.shape for f in self.factors}
        found = {k: tuple(v.shape[-2:]) for k, v in factors.items()}
        if expected != found:
            wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
            key = wrong[0]
            raise ValueError(f"adapter tensor {key}: expected shape {expected.get(key)}, found {found.get(key)}")
        return torch.cat([factors[f.key].flatten(-2) for f in self.factors], dim=-1)

    def initial(self, seed: int = 0) -> Float[Tensor, " d"]:
        """PEFT's start, A Kaiming-uniform and B zero."""
        rng = torch.Generator().manual_seed(seed)
        parts = []
        for factor in self.factors:
            bound = factor.shape[1] ** -0.5
            start = torch.rand(factor.size, generator=rng) * 2 * bound - bound
            parts.append(start if factor.is_down else torch.zeros(factor.size))
        return torch.cat(parts)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "AdapterLayout":
        fields = json.loads(text)
        fields["factors"] = tuple(Factor(f["key"], tuple(f["shape"])) for f in fields["factors"])
        fields["targets"] = tuple(fields["targets"])
        return cls(**fields)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)
