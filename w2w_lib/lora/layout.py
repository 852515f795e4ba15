"""Which numbers of which modules form a vector of adapter weights, and in which order."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor, nn

from w2w_lib.inputs import described, explain, finite_number, instance, known_seed, nearest, whole_number
from w2w_lib.lora.recipe import TARGETS

PEFT_PREFIX = "base_model.model."
PEFT_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<letter>[AB])\.weight")


@dataclass(frozen=True)
class Factor:
    """One LoRA factor: the PEFT key of a down (A: rank x in) or up (B: out x rank) projection."""

    key: str
    shape: tuple[int, int]

    __pydantic_config__ = ConfigDict(extra="forbid")

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
    """The order and shapes of a LoRA's factors within a weight vector, with rank, alpha and the base they belong to.

    Factors are sorted by PEFT key (down < mid < up; attn1 < attn2; A before B), the order of the authors' release.
    ValueError where the parts do not fit each other.
    """

    factors: tuple[Factor, ...]
    rank: int
    alpha: float
    targets: tuple[str, ...]
    base: str  # fingerprint of the base model

    __pydantic_config__ = ConfigDict(extra="forbid")

    def __post_init__(self):
        whole_number("rank", self.rank)
        if finite_number("alpha", self.alpha) <= 0:
            raise ValueError(f"alpha: expected a number above 0, found {self.alpha!r}")
        keys = [factor.key for factor in self.factors]
        if not keys:
            raise ValueError("factors: expected at least one, found none")
        if late := [key for before, key in pairwise(keys) if before >= key]:
            raise ValueError(f"factors: expected different keys in sorted order, found {late[0]} too late")
        for factor in self.factors:
            found = PEFT_KEY.fullmatch(factor.key)
            if not found or not any(f".{factor.module}".endswith(f".{target}") for target in self.targets):
                raise ValueError(
                    f"factor {factor.key!r}: expected {PEFT_PREFIX}<module>.lora_A.weight or lora_B.weight "
                    f"of a module whose name ends in {', '.join(self.targets)}"
                )
            if min(factor.shape) < 1 or factor.shape[not factor.is_down] != self.rank:
                wanted = f"({self.rank}, inputs)" if factor.is_down else f"(outputs, {self.rank})"
                raise ValueError(f"factor {factor.key}: expected shape {wanted}, found {factor.shape}")
            other = _other_factor(factor.key)
            if other not in keys:
                raise ValueError(f"factor {factor.key} is there without {other}")

    @classmethod
    def of(
        cls, unet: nn.Module, base: str, targets: str | Sequence[str] = "paper", rank: int = 1, alpha: float = 1.0
    ) -> "AdapterLayout":
        """The layout of rank-``rank`` adapters on all linear modules of ``unet`` whose name ends in a target.

        ``targets`` are names or one of ``TARGETS``, ``base`` is the base's fingerprint. ValueError for a target that
        the base does not have, a rank that is no whole number from 1, an alpha that is not above 0.
        """
        instance("unet", unet, nn.Module, "the UNet of a base")
        targets, rank, alpha = _targets(targets), whole_number("rank", rank), finite_number("alpha", alpha)
        linear = {name: module for name, module in unet.named_modules() if isinstance(module, nn.Linear)}
        adapted = {}
        for target in targets:
            found = {name: module for name, module in linear.items() if f".{name}".endswith(f".{target}")}
            if not found:
                there = sorted({".".join(name.split(".")[-2:]) for name in linear})
                raise ValueError(f"target module {target!r}: the base has none; it has {', '.join(there)}")
            adapted |= found
        factors = []
        for name, module in adapted.items():
            factors.append(Factor(f"{PEFT_PREFIX}{name}.lora_A.weight", (rank, module.in_features)))
            factors.append(Factor(f"{PEFT_PREFIX}{name}.lora_B.weight", (module.out_features, rank)))
        return cls(tuple(sorted(factors, key=lambda f: f.key)), rank, alpha, targets, base)

    @property
    def dimension(self) -> int:
        """Length d of a weight vector."""
        return sum(f.size for f in self.factors)

    @property
    def scale(self) -> float:
        """Factor on BA: alpha / rank."""
        return self.alpha / self.rank

    def unflatten(self, weights: Float[Tensor, "models d"]) -> dict[str, Float[Tensor, "models rows columns"]]:
        """Factors by PEFT key, as differentiable views of the weights; ValueError for weights of another shape."""
        instance("weights", weights, Tensor, f"a torch.Tensor of (models, {self.dimension}) numbers")
        if weights.ndim != 2 or weights.shape[1] != self.dimension:
            raise ValueError(
                f"weights of shape {tuple(weights.shape)}: expected (models, {self.dimension}), the numbers of this "
                "layout; are they of another layout?"
            )
        parts = weights.split([f.size for f in self.factors], dim=-1)
        return {f.key: p.unflatten(-1, f.shape) for f, p in zip(self.factors, parts, strict=True)}

    def flatten(self, factors: Mapping[str, Float[Tensor, "*models rows columns"]]) -> Float[Tensor, "*models d"]:
        """Weights of factors by PEFT key; ValueError where keys or shapes differ from the layout."""
        self.check_shapes({key: tuple(factor.shape[-2:]) for key, factor in factors.items()})
        return torch.cat([factors[f.key].flatten(-2) for f in self.factors], dim=-1)

    def check_shapes(self, found: Mapping[str, tuple[int, ...]]) -> None:
        """ValueError where these shapes by PEFT key are not the factors' own: the first that differs, and how many."""
        expected = {f.key: f.shape for f in self.factors}
        missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        if missing or unknown:
            raise ValueError(
                "; ".join(
                    f"adapter tensor {keys[0]} is {what}" + (f" (and {len(keys) - 1} more)" if len(keys) > 1 else "")
                    for keys, what in ((missing, "missing"), (unknown, "not in the layout"))
                    if keys
                )
                + f"; expected the modules {', '.join(self.targets)}"
            )
        if wrong := [key for key, shape in expected.items() if tuple(found[key]) != shape]:
            more = f" (and {len(wrong) - 1} more differ)" if len(wrong) > 1 else ""
            raise ValueError(
                f"adapter tensor {wrong[0]}: expected shape {expected[wrong[0]]} of rank {self.rank}, "
                f"found {tuple(found[wrong[0]])}{more}"
            )

    def initial(self, seed: int = 0) -> Float[Tensor, " d"]:
        """PEFT's start, A Kaiming-uniform and B zero."""
        rng = torch.Generator().manual_seed(known_seed(seed))
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
        """The layout that ``to_json`` wrote; ValueError of one line for anything else."""
        try:
            return TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            raise ValueError(explain(error, "layout", cls.__dataclass_fields__)) from None


def _targets(targets: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(targets, str):
        if targets not in TARGETS:
            raise ValueError(f"target modules {targets!r}{nearest(targets, TARGETS)} (or give a tuple of names)")
        return TARGETS[targets]
    ordered = isinstance(targets, Sequence) and not isinstance(targets, bytes)
    if not ordered or not targets or not all(isinstance(target, str) and target for target in targets):
        raise ValueError(
            f"target modules {described(targets)}: expected at least one name of modules, such as ('attn2.to_k',), or "
            f"one of {', '.join(TARGETS)}"
        )
    return tuple(dict.fromkeys(targets))


def _other_factor(key: str) -> str:
    module, letter = PEFT_KEY.fullmatch(key).group("module", "letter")
    return f"{PEFT_PREFIX}{module}.lora_{'B' if letter == 'A' else 'A'}.weight"
