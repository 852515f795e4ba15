"""What the profiles with Stable Diffusion 1.5 ask of a GPU's owner, by arithmetic: the table of the README.

    python benchmarks/budget.py            # a few seconds, no GPU

Rows of the UNet are counted from the settings (``budget_rows.py``), FLOPs and memory of a row on a UNet of the real
size (``budget_costs.py``). Hours follow from an assumed share of the card's peak, which ``gpu.py`` measures. Not
counted: compiling, detecting faces, training judges, the start of a recipe other than `random`.
"""

import sys
from collections.abc import Sequence

from budget_costs import Costs, costs_of_stable_diffusion
from budget_rows import Passes, largest_batches, passes_of

from w2w_lib.workbook.sections import Profile
from w2w_lib.workbook.settings import load

SHARES = 0.25, 0.45  # of the peak that is reached; assumed
CARDS = {"RTX 4090": (165e12, 82e12), "H100": (989e12, 67e12)}  # dense bf16 and fp32, also for the VAE; TF32 is faster
PARAMETERS = {"UNet": 859_520_964, "VAE": 83_653_863, "text encoder": 123_060_480}
RELEASE_GB = {"V.pt": 3.99, "proj_1000pc.pt": 0.26, "identity_df.pt": 0.04}  # all_weights.pt, 25.9, is not needed
RELEASE_MODELS, RELEASE_WIDTH = 64_974, 99_648
ENVIRONMENT_GB = {
    "downloads": 3.6,
    "disk": 7.5,
}  # the wheels of uv.lock by their size, with PyTorch for CUDA; on disk estimated
WORKSPACE_GIB = 2.5  # CUDA's context, kernels' workspaces, a picture in the VAE; estimated


def gpu_memory(profile: Profile, costs: Costs) -> float:
    """GiB: the base (the UNet in bf16; in 02 also one in fp32), a space, and what a batch keeps for its gradient."""
    half, whole = 2 * PARAMETERS["UNet"], 4 * sum(PARAMETERS.values())
    base = half + whole - 4 * PARAMETERS["UNet"]
    components = max(part.components for part in parts_with(profile, "invert", "domains", "release"))
    rows = [n * (costs.kept_checkpointed if c else costs.kept) for n, c in largest_batches(profile).values()]
    most = base + 4 * components * RELEASE_WIDTH + max(rows)
    if profile.has("finetune"):
        most = max(most, base + whole + rows[0])
    return most / 2**30 + WORKSPACE_GIB


def parts_with(profile: Profile, *names: str) -> list:
    return [getattr(profile, name) for name in names if profile.has(name)]


def gigabytes(profile: Profile) -> tuple[float, float]:
    """Of downloads, and of the disk in all: DVC keeps a second copy of what the notebooks write."""
    base = 4 * sum(PARAMETERS.values()) / 1e9
    downloads, written = ENVIRONMENT_GB["downloads"] + base, 0.0
    if profile.has("release"):
        downloads += sum(RELEASE_GB.values())
        written += 4 * profile.release.components * (RELEASE_WIDTH + RELEASE_MODELS) / 1e9
    if profile.has("people"):
        sets = profile.people.sets
        apart, again = sets.val + sets.heldout, profile.finetune.evaluate.again
        people = sets.train + apart
        written += (people * sets.views + apart * sets.unseen) * sets.size**2 * 3 / 1e9  # pictures
        models = people + len(again) * profile.finetune.evaluate.people + max(profile.space.counts)
        written += 4 * RELEASE_WIDTH * models / 1e9
    return downloads, downloads - ENVIRONMENT_GB["downloads"] + ENVIRONMENT_GB["disk"] + 2 * written


def hours(passes: Passes, costs: Costs, card: str) -> str:
    """From the best share of the peak to the worst."""
    least, most = (costs.seconds(passes, *CARDS[card]) / share / 3600 for share in reversed(SHARES))
    if most >= 1:
        return f"{least:.1f} to {most:.1f}"
    return f"{60 * least:.0f} to {60 * most:.0f} min" if most >= 1 / 30 else "under 2 min"


def table(names: Sequence[str], costs: Costs) -> str:
    """Markdown: the needs of each profile with how they were computed, then the notebooks."""
    profiles = {name: load(name) for name in names}
    counted = {name: passes_of(profile) for name, profile in profiles.items()}
    sizes = {name: gigabytes(profile) for name, profile in profiles.items()}
    low, high = (f"{share:.0%}" for share in SHARES)
    files = "the wheels of `uv.lock`, the base in fp32, the release without `all_weights.pt`"
    kept = f"base, space, {costs.kept / 1e9:.2f} GB for each row that is trained at once (counted)"
    lines = {
        "downloads, GB": ([f"{down:.1f}" for down, _ in sizes.values()], files),
        "disk, GB": (
            [f"{disk:.0f}" for _, disk in sizes.values()],
            "these, unpacked, and twice what the notebooks write: DVC keeps a copy",
        ),
        "GPU memory, GiB": (
            [f"{gpu_memory(profile, costs):.0f}" for profile in profiles.values()],
            f"{kept}, {WORKSPACE_GIB} GiB for the rest (estimated)",
        ),
    }
    for card, (peak, _) in CARDS.items():
        how = f"counted FLOPs at {low} to {high} of {peak / 1e12:.0f} TFLOP/s in bf16 (assumed)"
        lines[f"hours, {card}"] = [hours(sum(of.values()), costs, card) for of in counted.values()], how
    rows = [["", *(f"`{name}`" for name in names), "how it was computed"], ["---"] * (len(names) + 2)]
    rows += [[name, *values, how] for name, (values, how) in lines.items()]
    below = [["notebook", "rows without gradient", "with gradient", *(f"hours, {card}" for card in CARDS)], ["---"] * 5]
    for name, of in counted.items():
        for notebook, passes in of.items():
            trained = passes.trained + passes.checkpointed + passes.exact
            below.append([f"`{name}`, {notebook}", f"{passes.forward:,}", f"{trained:,}"])
            below[-1] += [hours(passes, costs, card) for card in CARDS]
    return "\n\n".join(
        "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in part) for part in (rows, below)
    )


if __name__ == "__main__":
    print(table(sys.argv[1:] or ["sd15", "sd15-own"], costs_of_stable_diffusion()))
