"""Pictures on a card: adapters of its own for each picture of a batch, beside diffusers' loading one by one."""

from dataclasses import replace
from tempfile import TemporaryDirectory

from measuring import forget_peak_memory, peak_memory, seconds_of
from peers import paint_one_by_one
from workplace import Workplace, layout_of, opened, random_weights

from w2w_lib.models.prompts import INSTANCE_PROMPT
from w2w_lib.models.sampling import generate

GIB = 2**30


def batched(place: Workplace, batch: int) -> dict:
    """Pictures per second with an adapter for each picture, ``batch`` of them at a time."""
    pipeline, count = opened(place), place.sizes.pictures
    layout, sampling = layout_of(pipeline), replace(place.sizes.sampling, batch_size=batch)
    weights, prompts = random_weights(layout, count), [INSTANCE_PROMPT] * count

    def paint() -> None:
        generate(pipeline, prompts, range(count), layout, weights, sampling=sampling)

    return {"way": "adapters in a batch", "pictures_at_once": batch} | _rates(place, paint)


def one_by_one(place: Workplace) -> dict:
    """The same with diffusers' ``load_lora_weights`` before each picture."""
    pipeline, count = opened(place), place.sizes.pictures
    layout = layout_of(pipeline)
    weights, prompts = random_weights(layout, count), [INSTANCE_PROMPT] * count

    def paint() -> None:
        with TemporaryDirectory() as folder:
            paint_one_by_one(pipeline, layout, weights, prompts, place.sizes.sampling, folder)

    return {"way": "diffusers' load_lora_weights", "pictures_at_once": 1} | _rates(place, paint)


def _rates(place: Workplace, paint) -> dict:
    pipeline, count = opened(place), place.sizes.pictures
    generate(pipeline, [INSTANCE_PROMPT], [0], sampling=replace(place.sizes.sampling, steps=2))  # warm
    forget_peak_memory(place.device)
    seconds = seconds_of(paint)
    return {
        "pictures_per_second": count / seconds,
        "seconds_per_picture": seconds / count,
        "peak_memory_gib": peak_memory(place.device) / GIB,
    }
