"""The steps of ``gpu.py``, in the order in which they are taken: what takes the compiler comes last."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gpu_fleet import card, fleet, peft_loop
from gpu_pictures import batched, one_by_one
from gpu_run import end_to_end
from gpu_space import imported, inversion
from workplace import Sizes, Workplace


@dataclass(frozen=True)
class Step:
    """A measurement; steps of one group share a process, one after the other."""

    name: str
    group: str
    measure: Callable[[Workplace], dict]


def all_steps(sizes: Sizes) -> list[Step]:
    """Every step, by these sizes."""
    return [
        Step("card", "card", card),
        Step("PEFT's loop", "fleet", peft_loop),
        *_fleets(sizes.fleets, compiled=False),
        Step("import", "import", imported),
        *(
            Step(f"inversion, {count:,} components", "inversion", partial(inversion, components=count))
            for count in sizes.inverted_components
        ),
        Step("sampling, one by one", "sampling", one_by_one),
        *(Step(f"sampling, {count} at once", "sampling", partial(batched, batch=count)) for count in sizes.batches),
        Step("sd15", "sd15", end_to_end),
        *_fleets(sizes.compiled_fleets, compiled=True),
    ]


def _fleets(sizes: tuple[int, ...], compiled: bool) -> list[Step]:
    """The largest first: what is left when the time is over are the small ones, which are slow anyway."""
    return [
        Step(
            f"fleet of {size}{', compiled' * compiled}{', checkpointing' * checkpointing}",
            "fleet",
            partial(fleet, size=size, compiled=compiled, checkpointing=checkpointing),
        )
        for size in sorted(sizes, reverse=True)
        for checkpointing in (True, False)  # with it first, as in the profile sd15
    ]
