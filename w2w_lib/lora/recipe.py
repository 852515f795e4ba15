"""What a recipe chooses of an adapter: its layers, and where it starts."""

from typing import Literal, get_args

# The paper's layers (Dravid et al. 2024, §4.1) and those of the authors' released weights.
TARGETS = {
    "paper": ("attn2.to_k", "attn2.to_v"),
    "release": ("attn1.to_q", "attn1.to_v", "attn2.to_q", "attn2.to_v"),
}
Initialisation = Literal["random", "variance", "contrast", "identifier"]  # see w2w_lib.lora.initialisation
INITIALISATIONS = get_args(Initialisation)
