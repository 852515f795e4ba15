"""Fleet fine-tuning: many people's adapters at once on one frozen base, group after group, into a weights dataset."""

from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from w2w_lib.inputs import instance, some, whole_number
from w2w_lib.lora.batched import apply_adapters
from w2w_lib.models.denoising import denoising_loss, stream
from w2w_lib.models.memory import peak_bytes
from w2w_lib.training.loop import Latents, TrainingLoop
from w2w_lib.training.memory import plan
from w2w_lib.training.prompt_table import texts_fingerprint
from w2w_lib.training.shards import require_ids
from w2w_lib.training.weights_dataset import WeightsDataset
from w2w_lib.training.workers import train_in_groups


class Fleet(TrainingLoop):
    """Trains adapters on one frozen base: ``train`` as many as fit in memory, ``train_all`` any number of them.

    ``initial`` is the starting vector of all. ``compiled`` lets ``torch.compile`` fuse what lies between the matrix
    products: half a minute at the start (a C++ compiler is needed on a CPU), then faster steps, in the pocket profile
    by a quarter. ``checkpointing`` keeps fewer activations and computes them again in the backward pass: more adapters
    fit, each step takes about a third longer.

    With the recipe's ``instance_prompt`` "context", the prompt of a person's picture also names what it shows beside
    the person (``contexts``, by identity one text for each picture), so that an adapter need not learn that, and the
    prompt of a class picture likewise (``prior_contexts``: what it was generated for). Whose contexts are not given has
    the plain prompt. ValueError for class pictures' latents that are not of the base's size, and a layout of another
    base.
    """

    def dataset(self, folder: str | Path, also: Mapping[str, object] | None = None) -> WeightsDataset:
        """Open or begin the dataset that this fleet's adapters go into.

        ``also`` is what decides them beside the recipe, such as how the class pictures were made. ValueError as for
        ``WeightsDataset.create``, and for names that the recipe has, too.
        """
        recipe, also = self._decided(), also or {}
        instance("also", also, Mapping)
        if twice := recipe.keys() & also.keys():
            raise ValueError(f"{some(sorted(twice))}: settings of the recipe; expected other names beside it")
        return WeightsDataset.create(folder, self.layout, recipe | dict(also), self.initial, self.dtype)

    def _decided(self) -> dict[str, object]:
        """The recipe, and the class pictures' prompts where they are not all the same."""
        named = self.prompts.class_prompts
        return self.recipe.to_dict() | ({"class_prompts": texts_fingerprint(named)} if named else {})

    def memory_per_model(self, latents: Float[Tensor, "images channels height width"]) -> int:
        """Bytes that one training step takes for each adapter: on a GPU its peak, on a CPU what autograd saves."""
        self.require({"latents": latents})
        if self.device.type == "cuda":
            with self._checkpoints():
                return peak_bytes(self.device, partial(self._first_step, latents))
        saved = {}

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        frozen = {p.untyped_storage().data_ptr() for p in self.unet.parameters()}
        with self._checkpoints(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            self._first_step(latents)
        return sum(size for pointer, size in saved.items() if pointer not in frozen)

    def _first_step(self, latents: Tensor) -> None:
        recipe = self.recipe
        weights = self.initial[None].to(self.device).requires_grad_()
        batch = self._batch({"": latents}, [stream(recipe.seed, "memory")])
        with apply_adapters(self.unet, self.layout, weights, each=len(batch[0])):
            denoising_loss(self.unet, self.scheduler, *batch).sum().backward()

    def train_all(
        self,
        latents: Latents,
        dataset: WeightsDataset,
        fleet_size: int = 32,
        workers: int | None = 1,
        pictures: Mapping[str, str] | None = None,
    ) -> None:
        """Fine-tune every identity that the dataset does not hold yet, at most ``fleet_size`` at a time.

        ``workers`` is the number of processes that do so side by side (see ``w2w_lib.training.workers``); None stands
        for one for each core of a CPU, and one for a GPU. Fewer identities at a time where that many would not fit in
        memory; MemoryError where not even one does. ``pictures`` are fingerprints of what the latents were made of, by
        identity: ValueError where a finished row learned others, and for a dataset that was made with anything else.
        TimeoutError while another run fills the dataset. People whose weights become NaN or infinite are left out, and
        named by a ValueError when all others are finished.
        """
        fleet_size = whole_number("fleet_size", fleet_size)
        workers = None if workers is None else whole_number("workers", workers)
        instance("latents", latents, Mapping)
        instance("dataset", dataset, WeightsDataset)
        instance("pictures", pictures or {}, Mapping)
        if wrong := [i for i, own in (pictures or {}).items() if not isinstance(own, str | None)]:
            raise ValueError(f"pictures of {some(wrong)}: expected their fingerprints, texts")
        require_ids(latents)
        self.require(latents)
        with dataset.lock():
            dataset.require(self.layout, dataset.recipe | self._decided(), self.initial, self.dtype)
            self.initial = dataset.initial  # to the last digit, as another machine may have computed it
            learned = {i: self.prompts.learned(i, (pictures or {}).get(i)) for i in {*latents, *(pictures or {})}}
            known = {i: own for i, own in learned.items() if own is not None}
            self._train_rest(latents, dataset, fleet_size, workers, known)

    def _train_rest(
        self,
        latents: Latents,
        dataset: WeightsDataset,
        fleet_size: int,
        workers: int | None,
        pictures: Mapping[str, str],
    ) -> None:
        done = _finished(dataset, pictures)
        todo = {i: own for i, own in latents.items() if i not in done}
        workers = workers or (torch.get_num_threads() if self.device.type == "cpu" else 1)
        workers = max(1, min(workers, -(-len(todo) // fleet_size)))
        if todo:
            bytes_each = self.memory_per_model(next(iter(todo.values())))
            workers, fleet_size = plan(workers, fleet_size, bytes_each, self.device)
        diverged = []
        with (
            tqdm(total=len(latents), initial=len(latents) - len(todo), desc="fine-tune", unit="person") as bar,
            closing(
                train_in_groups(self.session, todo, fleet_size, workers, bar.write, same_size=self.compiled)
            ) as groups,
        ):
            for group in groups:
                sound = (group.weights.isfinite().all(1) & group.losses.isfinite()).tolist()
                diverged += [i for i, fine in zip(group.ids, sound, strict=True) if not fine]
                if kept := [i for i, fine in zip(group.ids, sound, strict=True) if fine]:
                    losses = group.losses[sound]
                    dataset.append(kept, group.weights[sound], losses, pictures, group.seconds_each)
                    bar.set_postfix(loss=f"{losses.mean():.3f}")
                bar.update(len(group.ids))
        if diverged:
            raise ValueError(
                f"the weights of {some(diverged)} became NaN or infinite; all others are finished and kept: look at "
                "these people's pictures, or lower the learning rate, and run again"
            )


def _finished(dataset: WeightsDataset, pictures: Mapping[str, str]) -> set[str]:
    learned = dataset.pictures()
    others = [i for i, own in learned.items() if own is not None and pictures.get(i, own) != own]
    if others:
        raise ValueError(
            f"{dataset.folder}: {len(others)} finished people, {some(others, 3)}, learned other pictures than these: "
            "move the folder away to train them again, or use the pictures they learned"
        )
    return set(learned)
