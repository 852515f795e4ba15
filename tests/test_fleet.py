"""The fleet against PEFT: the same adapters, alone, in company and one at a time."""

import copy
import os
import subprocess
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from threading import Event, RLock
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from tiny_base import tiny_pipeline
from tqdm import tqdm
from transformers import get_linear_schedule_with_warmup

from w2w_lib import fleet as fleet_module
from w2w_lib import memory
from w2w_lib import workers as workers_module
from w2w_lib.adapter_files import save_adapter
from w2w_lib.bank import wearing
from w2w_lib.base_model import CLASS_PROMPT, INSTANCE_PROMPT, encode_prompts, fingerprint
from w2w_lib.fleet import Fleet, FleetRecipe
from w2w_lib.layout import AdapterLayout
from w2w_lib.objective import denoising_loss, draw, stream
from w2w_lib.start import STARTS, shared_start
from w2w_lib.weights_dataset import WeightsDataset

RECIPE = FleetRecipe(
    steps=5,
    learning_rate=1e-2,
    instance_batch=2,
    prior_batch=2,
    prior_weight=0.5,
    timesteps=(200, 900),
    clip_norm=0.01,
    lr_scheduler="linear",
)


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.fixture(scope="module", params=["paper", "release"])
def layout(request, pipeline):
    return AdapterLayout.of(pipeline.unet, fingerprint(pipeline), request.param, rank=1, alpha=3)


@pytest.fixture(scope="module")
def images():
    rng = torch.Generator().manual_seed(3)
    return {f"person-{i}": torch.randn(4, 4, 8, 8, generator=rng) for i in range(3)}


@pytest.fixture(scope="module")
def prior():
    return torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(4))


def random_theta(layout, models, seed=0):
    return torch.randn(models, layout.dimension, generator=torch.Generator().manual_seed(seed)) * 0.2


def peft_model(unet, layout, theta, folder):
    save_adapter(layout, theta, folder, "peft")
    return PeftModel.from_pretrained(copy.deepcopy(unet), str(folder), is_trainable=True)


def test_each_row_wears_its_own_adapter_as_in_peft(pipeline, layout, tmp_path):
    theta = random_theta(layout, 3)
    x, t = torch.randn(3, 4, 8, 8), torch.tensor([10, 500, 999])
    text = encode_prompts(pipeline, ["a photo of sks person"] * 3)
    before = pipeline.unet(x, t, text).sample
    with wearing(pipeline.unet, layout, theta):
        ours = pipeline.unet(x, t, text).sample
    for i in range(3):
        reference = peft_model(pipeline.unet, layout, theta[i], tmp_path / str(i))
        expected = reference(x[i : i + 1], t[i : i + 1], text[i : i + 1]).sample
        torch.testing.assert_close(ours[i : i + 1], expected, rtol=1e-4, atol=1e-5)
        assert (ours[i] - before[i]).abs().max() > 1e-3
    torch.testing.assert_close(pipeline.unet(x, t, text).sample, before, rtol=0, atol=0)


def train_with_peft(pipeline, layout, latents, prior, identity, start, recipe=RECIPE):
    """DreamBooth as PEFT's users write it: one model, one loop."""
    config = LoraConfig(r=layout.rank, lora_alpha=layout.alpha, target_modules=list(layout.targets))
    model = get_peft_model(copy.deepcopy(pipeline.unet), config)
    start = layout.unflatten(start[None])
    trained = {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}
    assert trained.keys() == start.keys()
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(start[name][0])
    optimizer = create_loraplus_optimizer(
        model,
        torch.optim.AdamW,
        lr=recipe.learning_rate,
        loraplus_lr_ratio=recipe.lr_ratio,
        loraplus_weight_decay=recipe.weight_decay,
    )
    schedule = get_linear_schedule_with_warmup(optimizer, 0, recipe.steps)
    rng = stream(recipe.seed, identity)
    texts = [encode_prompts(pipeline, [p]) for p in (INSTANCE_PROMPT, CLASS_PROMPT)]
    norms = []
    for _ in range(recipe.steps):
        loss = 0
        for source, count, text, weight in (
            (latents, recipe.instance_batch, texts[0], 1.0),
            (prior, recipe.prior_batch, texts[1], recipe.prior_weight),
        ):
            batch = draw(rng, source, count, recipe.timesteps)
            text = text.expand(count, -1, -1)
            loss = loss + weight * denoising_loss(model, pipeline.scheduler, *batch, text).mean()
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(trained.values(), recipe.clip_norm))
        optimizer.step()
        schedule.step()
    assert max(norms) > recipe.clip_norm  # it is clipped
    return layout.flatten({n: p.detach() for n, p in trained.items()})


# Of what training changed, in fp32. Sums are taken in another order, and AdamW divides gradients by their own size:
# where they are nearly zero, rounding is what it divides. Seen: 5e-5, and 1.1e-3 once.
WITHIN = 5e-3


@pytest.mark.parametrize(("start", "lr_ratio"), [*zip(STARTS, (1.0, 8.0, 8.0), strict=True)])
def test_fleet_equals_peft_alone_and_in_company(pipeline, layout, images, prior, start, lr_ratio):
    recipe = replace(RECIPE, start=start, lr_ratio=lr_ratio, learning_rate=RECIPE.learning_rate / lr_ratio)
    fleet = Fleet(pipeline, layout, recipe, prior)
    together, _ = fleet.train(images)
    backwards, _ = fleet.train(dict(reversed(images.items())))
    for i, (identity, latents) in enumerate(images.items()):
        alone, _ = fleet.train({identity: latents})
        sequential = train_with_peft(pipeline, layout, latents, prior, identity, fleet.start, recipe)
        moved = (sequential - fleet.start).norm()
        assert moved > 0.1
        for other in (alone[0], together[i], backwards[-1 - i]):
            assert (other - sequential).norm() < WITHIN * moved


def test_a_compiled_fleet_trains_the_same_adapters(pipeline, layout, images, prior, monkeypatch):
    # Traced and differentiated as a graph, but run by PyTorch: the C++ that is made of it takes minutes to compile.
    traced = Mock(wraps=partial(torch.compile, backend="aot_eager", fullgraph=True))
    monkeypatch.setattr(torch, "compile", traced)
    fleet = Fleet(pipeline, layout, RECIPE, prior)
    eager, _ = fleet.train(images)
    assert not traced.called
    compiled, _ = Fleet(pipeline, layout, RECIPE, prior, compiled=True).train(images)
    assert traced.called and (compiled - eager).norm() < WITHIN * (eager - fleet.start).norm()


def test_checkpointing_needs_less_memory_and_trains_the_same_adapters(pipeline, layout, images, prior):
    needed, trained = [], []
    for on in (False, True):
        fleet = Fleet(pipeline, layout, RECIPE, prior, checkpointing=on)
        needed.append(fleet.memory_per_model(images["person-0"]))
        trained.append(fleet.train(images)[0])
    assert needed[1] < needed[0] / 2
    assert (trained[1] - trained[0]).norm() < WITHIN * (trained[0] - fleet.start).norm()


def train_share(folder, images, prior, share):
    train_all_alone(folder, {i: images[i] for i in list(images)[share::2]}, prior)


def test_two_processes_fill_one_dataset_as_one_does(prior, tmp_path):
    rng = torch.Generator().manual_seed(9)
    images = {f"person-{i:02d}": torch.randn(4, 4, 8, 8, generator=rng) for i in range(6)}
    train_apart(tmp_path / "one", images, prior).join()
    context = get_context("fork")
    runs = [context.Process(target=train_share, args=(tmp_path / "two", images, prior, k)) for k in (0, 1)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    one, two = WeightsDataset.open(tmp_path / "one"), WeightsDataset.open(tmp_path / "two")
    two.verify()
    assert sorted(two.ids) == list(images)
    torch.testing.assert_close(two.theta(list(images)), one.theta(list(images)), rtol=0, atol=0)


@pytest.fixture
def roomy(monkeypatch):
    """Memory for whatever is asked."""
    monkeypatch.setattr(fleet_module, "plan", lambda workers, size, *_: (workers, size))


def test_workers_train_the_same_adapters(pipeline, images, prior, tmp_path, roomy):
    layout = AdapterLayout.of(pipeline.unet, fingerprint(pipeline))
    fleet = Fleet(pipeline, layout, RECIPE, prior)
    for workers in (1, 2):
        dataset = WeightsDataset.create(tmp_path / str(workers), layout, RECIPE.to_dict())
        fleet.train_all(images, dataset, fleet_size=2, workers=workers)
        dataset.verify()
    one, two = (WeightsDataset.open(tmp_path / str(workers)).theta(list(images)) for workers in (1, 2))
    assert (one - two).norm() < WITHIN * (one - fleet.start).norm()


def train_with_workers(folder, images, prior):
    pipeline = tiny_pipeline()
    layout = AdapterLayout.of(pipeline.unet, fingerprint(pipeline))
    dataset = WeightsDataset.create(folder, layout, {})
    fleet_module.plan = lambda workers, size, *_: (workers, size)  # in a process of its own
    Fleet(pipeline, layout, RECIPE, prior).train_all(images, dataset, fleet_size=1, workers=2)


def test_workers_end_with_their_parent_and_lose_nothing(prior, tmp_path):
    images = dict.fromkeys([f"person-{i}" for i in range(100_000)], torch.zeros(1, 4, 8, 8))
    parent = get_context("spawn").Process(target=train_with_workers, args=(tmp_path, images, prior))
    parent.start()
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("shard-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert len(workers) >= 2
    parent.kill()
    parent.join()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    finished = WeightsDataset.open(tmp_path)
    finished.verify()
    assert finished.ids


def die(*args, **kwargs):
    os._exit(9)


def test_a_killed_worker_is_an_error_that_says_what_to_do(pipeline, images, prior, tmp_path, roomy):
    layout = AdapterLayout.of(pipeline.unet, "x")
    fleet, dataset = Fleet(pipeline, layout, RECIPE, prior), WeightsDataset.create(tmp_path, layout, {})
    fleet.train = die
    with pytest.raises(MemoryError, match="fewer workers or a smaller fleet"):
        fleet.train_all(images, dataset, fleet_size=1, workers=2)


def test_a_start_of_most_variance_is_numpys_svd(pipeline, prior):
    layout = AdapterLayout.of(pipeline.unet, "x", "paper", rank=2)
    start = layout.unflatten(shared_start("variance", pipeline, layout, prior)[None])
    text = encode_prompts(pipeline, [INSTANCE_PROMPT])[0].double().numpy()  # what goes into keys and values
    directions = np.linalg.svd(text)[2][:2]
    for factor in layout.factors:
        value = start[factor.key][0].numpy()
        if factor.is_down:
            np.testing.assert_allclose(np.abs(value @ directions.T), np.eye(2), atol=1e-3)
            assert (text.mean(0) @ value.T > 0).all()
        else:
            assert not value.any()
    with pytest.raises(ValueError, match="start 'zero': expected one of random, variance, contrast"):
        shared_start("zero", pipeline, layout, prior)


def test_a_start_of_contrast_hears_the_instance_prompt_alone(pipeline, prior):
    layout = AdapterLayout.of(pipeline.unet, "x", "paper")
    start = layout.unflatten(shared_start("contrast", pipeline, layout, prior)[None])
    instance, common = (encode_prompts(pipeline, [p])[0].mean(0) for p in (INSTANCE_PROMPT, CLASS_PROMPT))
    down = torch.stack([start[f.key][0, 0] for f in layout.factors if f.is_down])
    assert (down @ common).abs().max() < 1e-4 < (down @ instance).min()
    torch.testing.assert_close(down.norm(dim=1), torch.ones(len(down)))


def test_layouts_that_cannot_be(pipeline, unchecked):
    for targets, rank, alpha, said in (
        ((), 1, 1.0, "no target modules"),
        ("paper", 1.5, 1.0, "rank 1.5: expected a whole number"),
        ("paper", 1, 0.0, "alpha 0.0: expected a finite number other than 0"),
        (("o_k",), 1, 1.0, "target module 'o_k': the base has none"),
        (("attn9.to_k",), 1, 1.0, r"attn9.to_k.*it has .*attn2.to_k"),
        ("paper", 0, 1.0, "rank 0"),
    ):
        with pytest.raises(ValueError, match=said):
            AdapterLayout.of(pipeline.unet, "x", targets, rank, alpha)
    twice = AdapterLayout.of(pipeline.unet, "x", ("attn2.to_k", "to_k"))
    assert len({f.key for f in twice.factors}) == len(twice.factors)
    wider = AdapterLayout.of(tiny_pipeline(channels=(16, 64)).unet, "x")
    with pytest.raises(ValueError, match=r"adapter of another base: .* needs a width of 64, this UNet has .* 32"):
        with wearing(pipeline.unet, wider):
            pass


def train_apart(folder, images, prior):
    """Train in a process of its own, which is returned running."""
    run = get_context("fork").Process(target=train_all_alone, args=(folder, images, prior))
    run.start()
    return run


def train_all_alone(folder, images, prior):
    torch.set_num_threads(1)  # a forked process must not wait for its parent's threads
    tqdm.set_lock(RLock())  # tqdm's own is shared with the parent, which would wait for a killed process for ever
    pipeline = tiny_pipeline()
    layout = AdapterLayout.of(pipeline.unet, fingerprint(pipeline), "paper", rank=1, alpha=3)
    dataset = WeightsDataset.create(folder, layout, RECIPE.to_dict())
    Fleet(pipeline, layout, RECIPE, prior).train_all(images, dataset, fleet_size=1)


def test_twenty_kills_lose_no_finished_row_and_change_none(prior, tmp_path):
    rng = torch.Generator().manual_seed(9)
    images = {f"person-{i:02d}": torch.randn(4, 4, 8, 8, generator=rng) for i in range(24)}
    train_apart(tmp_path / "whole", images, prior).join()
    folder, kills, finished = tmp_path / "killed", 0, 0
    while finished < len(images):
        run = train_apart(folder, images, prior)
        while kills < 20 and run.is_alive() and len(list(folder.glob("shard-*"))) == finished:
            run.join(0.01)  # until somebody is finished: so every run is killed in the middle
        run.join(0.3 * float(torch.rand((), generator=rng)) if kills < 20 else None)
        kills += run.is_alive()
        run.kill()
        run.join()
        before, finished = finished, len(list(folder.glob("shard-*")))
        assert finished > before
        if finished == len(images) and kills < 20:  # done before the last kill: begin again, with more to redo
            for shard in sorted(folder.glob("shard-*"))[::2]:
                shard.unlink()
            finished = len(images) // 2
    assert kills == 20
    whole, killed = WeightsDataset.open(tmp_path / "whole"), WeightsDataset.open(folder)
    killed.verify()
    assert sorted(killed.ids) == list(images)
    torch.testing.assert_close(killed.theta(list(images)), whole.theta(list(images)), rtol=0, atol=0)


def test_a_fleet_that_does_not_fit_shrinks(pipeline, layout, images, prior, tmp_path, monkeypatch):
    fleet, sizes, train = Fleet(pipeline, layout, RECIPE, prior), [], Fleet.train

    def train_at_most_one(self, latents, bank):
        sizes.append(len(latents))
        if len(latents) > 1:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate ...")
        return train(self, latents, bank=bank)

    monkeypatch.setattr(Fleet, "train", train_at_most_one)
    dataset = WeightsDataset.create(tmp_path, layout, RECIPE.to_dict())
    fleet.train_all(images, dataset, fleet_size=3)
    assert sizes == [3, 1, 1, 1] and sorted(dataset.ids) == sorted(images)


def group_sizes(fleet, layout, people, folder, monkeypatch, fits=lambda group: True):
    """Of the groups in which people are fine-tuned two at a time, where only some fit in memory."""
    sizes = []

    def train(group, bank):
        sizes.append(len(group))
        if not fits(group):
            raise torch.OutOfMemoryError
        return torch.zeros(len(group), layout.dimension), torch.zeros(len(group))

    monkeypatch.setattr(fleet, "train", train)
    dataset = WeightsDataset.create(folder, layout, {})
    fleet.train_all({f"person-{i}": torch.zeros(1, 4, 8, 8) for i in range(people)}, dataset, fleet_size=2)
    assert sorted(dataset.ids) == [f"person-{i}" for i in range(people)]
    return sizes


def test_a_compiled_fleet_fills_groups_up_to_a_size_it_has_had(pipeline, layout, prior, tmp_path, monkeypatch):
    fleets = {
        name: Fleet(pipeline, layout, RECIPE, prior, compiled=name == "compiled") for name in ("eager", "compiled")
    }
    expected = {("eager", 5): [2, 2, 1], ("compiled", 5): [2, 2, 2], ("compiled", 1): [1], ("compiled", 4): [2, 2]}
    for (name, people), sizes in expected.items():
        folder = tmp_path / f"{name}{people}"
        assert group_sizes(fleets[name], layout, people, folder, monkeypatch) == sizes
    # Where the nobody does not fit, the person does.
    sizes = group_sizes(
        fleets["compiled"], layout, 3, tmp_path / "full", monkeypatch, lambda group: "\0nobody 0" not in group
    )
    assert sizes == [2, 2, 1]


def test_what_did_not_fit_is_let_go_before_the_next_attempt(pipeline, layout, prior, tmp_path, monkeypatch):
    held = []

    def train(group, bank):
        assert not any(tensor() is not None for tensor in held)
        activations = torch.zeros(1000)
        held.append(weakref.ref(activations))
        if len(group) > 1:
            raise RuntimeError("could not create a primitive")
        return torch.zeros(1, layout.dimension), torch.zeros(1)

    fleet, dataset = Fleet(pipeline, layout, RECIPE, prior), WeightsDataset.create(tmp_path, layout, {})
    monkeypatch.setattr(fleet, "train", train)
    fleet.train_all({f"person-{i}": torch.zeros(1, 4, 8, 8) for i in range(4)}, dataset, fleet_size=4)
    assert len(held) == 6 and len(dataset.ids) == 4


def test_somebody_who_diverges_stops_nobody_else_and_is_named(pipeline, layout, images, prior, tmp_path):
    fleet, dataset = Fleet(pipeline, layout, RECIPE, prior), WeightsDataset.create(tmp_path, layout, {})
    sick = images | {"person-0": images["person-0"] * torch.nan}
    for _ in range(2):
        with pytest.raises(ValueError, match="weights of person-0 became NaN or infinite; all others are finished"):
            fleet.train_all(sick, dataset, fleet_size=2)
        assert sorted(dataset.ids) == ["person-1", "person-2"]
    fleet.train_all(images, dataset)
    assert sorted(dataset.ids) == list(images)


def test_rows_that_learned_other_pictures_are_not_taken_for_finished(pipeline, layout, images, prior, tmp_path):
    fleet, dataset = Fleet(pipeline, layout, RECIPE, prior), WeightsDataset.create(tmp_path, layout, {})
    seen = {identity: f"pictures of {identity}" for identity in images}
    fleet.train_all(images, dataset, pictures=seen)
    assert dataset.pictures() == seen
    fleet.train_all(images, dataset, pictures=seen)
    with pytest.raises(ValueError, match="1 finished people, among them person-1, learned other pictures"):
        fleet.train_all(images, dataset, pictures=seen | {"person-1": "others"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 0}, "steps is 0, expected at least 1"),
        ({"instance_batch": 0}, "instance_batch is 0"),
        ({"prior_batch": 0}, "prior_batch is 0"),
        ({"timesteps": (500, 500)}, "expected a first one and a later end"),
    ],
)
def test_recipes_that_cannot_be_followed(change, said):
    with pytest.raises(ValueError, match=said):
        replace(RECIPE, **change)
    replace(RECIPE, prior_weight=0.0, prior_batch=0)


WITHOUT_GUARD = """
from types import SimpleNamespace
import torch
from w2w_lib.workers import in_groups

fleet = SimpleNamespace(compiled=False, ballast=torch.zeros(10**6))  # more than a pipe holds
next(in_groups(fleet, {"person": torch.zeros(1)}, size=1, workers=2, say=print))
"""


def test_workers_that_cannot_start_are_an_error_and_not_a_hang(tmp_path):
    (tmp_path / "script.py").write_text(WITHOUT_GUARD)
    said = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "a script that uses workers needs `if __name__ == '__main__':`" in said.stderr


def test_a_late_failure_does_not_enlarge_the_fleet_again(pipeline, layout, prior, tmp_path, monkeypatch, roomy):
    sizes, shrunk = [], Event()

    def train(group):
        sizes.append(len(group))
        if len(group) == 1:
            shrunk.set()
            return torch.zeros(1, layout.dimension), torch.zeros(1)
        if "person-4" in group and len(group) == 4:
            assert shrunk.wait(60)  # the first four have failed, and the first two of them, before these do
        raise torch.OutOfMemoryError

    @contextmanager
    def threads(fleet, workers):
        with ThreadPoolExecutor(workers) as pool:
            yield partial(pool.submit, train)

    monkeypatch.setattr(workers_module, "trainers", threads)
    dataset = WeightsDataset.create(tmp_path, layout, {})
    people = {f"person-{i}": torch.zeros(1, 4, 8, 8) for i in range(8)}
    Fleet(pipeline, layout, RECIPE, prior).train_all(people, dataset, fleet_size=4, workers=2)
    assert sizes == [4, 4, 2] + 8 * [1] and sorted(dataset.ids) == sorted(people)


@pytest.mark.parametrize(
    ("free", "fits"),
    [
        (100e9, (2, 32)),  # as asked
        (10e9, (2, 25)),  # 7 GB may be used: 3.5 for each worker, one of which is its own
        (4e9, (1, 28)),  # 2.8 GB: not two workers of twice their own
        (1e8, (1, 1)),
    ],
)
def test_a_fleet_is_planned_from_the_free_memory(monkeypatch, free, fits):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    assert memory.plan(2, 32, int(1e8), torch.device("cpu")) == fits


def test_only_a_want_of_memory_makes_a_fleet_smaller():
    assert memory.smaller_fleet(5, RuntimeError("bad_alloc")) == 2
    with pytest.raises(RuntimeError, match="shapes"):
        memory.smaller_fleet(5, RuntimeError("shapes do not match"))
    with pytest.raises(MemoryError, match="not even one adapter fits"):
        memory.smaller_fleet(1, MemoryError())


def test_memory_grows_with_the_batch(pipeline, layout, images, prior):
    latents = images["person-0"]
    one, four = (
        Fleet(pipeline, layout, replace(RECIPE, instance_batch=n, prior_weight=0.0), prior).memory_per_model(latents)
        for n in (1, 4)
    )
    assert 3 < four / one < 5


def test_dataset_resumes_and_refuses(pipeline, layout, images, prior, tmp_path):
    fleet = Fleet(pipeline, layout, RECIPE, prior)
    whole = WeightsDataset.create(tmp_path / "whole", layout, RECIPE.to_dict())
    fleet.train_all(images, whole, fleet_size=2)
    part = WeightsDataset.create(tmp_path / "part", layout, RECIPE.to_dict())
    fleet.train_all({"person-1": images["person-1"]}, part)
    (part.folder / ".shard-person-0-1.partial.safetensors").write_bytes(b"half a shard, as kill -9 leaves it")
    fleet.train_all(images, WeightsDataset.create(tmp_path / "part", layout, RECIPE.to_dict()), fleet_size=1)
    ids = list(images)
    assert sorted(part.ids) == sorted(whole.ids) == sorted(ids)
    assert (part.theta(ids) - whole.theta(ids)).norm() < WITHIN * (whole.theta(ids) - fleet.start).norm()
    whole.verify()
    with pytest.raises(ValueError, match=r"person-0.*already"):
        whole.append(["person-0"], whole.theta(["person-0"]), torch.zeros(1))
    with pytest.raises(ValueError, match="another fine-tuning recipe"):
        WeightsDataset.create(whole.folder, layout, RECIPE.to_dict() | {"steps": 6})
    with pytest.raises(ValueError, match="NaN"):
        whole.append(["new"], torch.full((1, layout.dimension), torch.nan), torch.zeros(1))
    shard = next(whole.folder.glob("shard-*"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        whole.theta()
