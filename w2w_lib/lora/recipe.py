"""What a recipe chooses of an adapter: its layers, and where it starts."""

from typing import Literal, get_args

# The paper's layers (Dravid et al. 2024, §4.1), those of the authors' released weights, and every projection.
TARGETS = {
    "paper": ("attn2.to_k", "attn2.to_v"),
    "release": ("attn1.to_q", "attn1.to_v", "attn2.to_q", "attn2.to_v"),
    "attention": tuple(f"attn{i}.to_{name}" for i in (1, 2) for name in ("q", "k", "v", "out.0")),
}
Initialisation = Literal["random", "variance", "contrast", "identifier"]  # see w2w_lib.lora.initialisation
INITIALISATIONS = get_args(Initialisation)
