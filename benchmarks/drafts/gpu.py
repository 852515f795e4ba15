"""gpu.py PHASE: data | warm | smoke | refine | train KIND STEPS DEADLINE(epoch s) ; env SMALL=1 for a rehearsal on the CPU."""
import json, os, subprocess, sys, time
from dataclasses import asdict, replace
from pathlib import Path
import torch
from w2w_lib.files.atomic import save_tensors, write_text
from w2w_lib.pocket.base_training import BaseTrainer
from w2w_lib.pocket.recipe import BaseRecipe
from w2w_lib.pocket.training_data import prepare_data, refined_codec

SMALL = bool(os.environ.get("SMALL"))
DEVICE = "cpu" if SMALL else "cuda"
W = Path(os.environ.get("WORK", "/tmp/w"))
OUT = Path(os.environ["OUT"])
SMALLER = dict(people=60, refine_steps=4, refine_batch_size=4, refiner_channels=(16, 16), text_steps=2, text_batch_size=8, channels=(16, 32), batch_size=8, steps=6)
PLANTED = dict(text_objective="planted", text_steps=1500, summary_share=0.7)


def recipe(kind, steps=None):
    r = BaseRecipe(**(SMALLER if SMALL else {}))
    if kind == "planted":
        r = replace(r, **(PLANTED | ({"text_steps": 2} if SMALL else {})))
    return replace(r, steps=steps) if steps else r


def sync():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def say(*a):
    print(f"[{time.strftime('%H:%M:%S')}]", *a, flush=True)


def smoke():
    small = replace(recipe("contrastive"), people=300, text_steps=5, refine_steps=40)
    work = W / "smoke"
    work.mkdir(parents=True, exist_ok=True)
    t = time.time()
    data = prepare_data(small, work)
    say("small data", round(time.time() - t, 1))
    t = time.time()
    refined_codec(small, data, work, DEVICE, not SMALL)
    say("refiner 40 steps with compiling", round(time.time() - t, 1))
    t = time.time()
    trainer = BaseTrainer(small, data, work, DEVICE, not SMALL)
    say("text encoder, 5 steps", round(time.time() - t, 1), "reads", trainer.text_read)
    t = time.time()
    for _ in range(3):
        loss = trainer.train_step()
    say("compiled UNet", round(time.time() - t, 1), loss.item())
    for n in (40, 40):
        sync(); t = time.time()
        for _ in range(n):
            loss = trainer.train_step()
        sync()
        say("ms a step of", small.batch_size, ":", round((time.time() - t) / n * 1e3, 2), loss.item())
    say(trainer.caption_signal())
    trainer.save_checkpoint()
    trainer.load_checkpoint()
    if DEVICE == "cuda":
        say("memory", torch.cuda.max_memory_allocated() / 1e9)


def refine():
    r, work = recipe("contrastive"), W / "contrastive"
    data = prepare_data(r, work)
    t = time.time()
    codec = refined_codec(r, data, work, DEVICE, not SMALL)
    say("refined in", round(time.time() - t))
    save_tensors({k: v.half() for k, v in codec.state_dict().items()}, OUT / "codec.safetensors")


def train(kind, steps, deadline):
    r, work = recipe(kind, steps), W / kind
    work.mkdir(parents=True, exist_ok=True)
    if kind != "contrastive" and not (work / "data.safetensors").exists():
        (work / "data.safetensors").symlink_to(W / "contrastive" / "data.safetensors")
    data = prepare_data(r, work)
    say(kind, "data read", tuple(data.latents.shape), tuple(data.tokens.shape))
    t = time.time()
    trainer = BaseTrainer(r, data, work, DEVICE, not SMALL)
    say(kind, "text encoder in", round(time.time() - t), "reads", trainer.text_read)
    recent, t, every = [], time.time(), max(1, steps // 15)
    stopped = None
    while trainer.step < steps:
        recent.append(trainer.train_step())
        if trainer.step == 500:
            sync(); say(kind, "ms a step", round((time.time() - t) / 500 * 1e3, 2))
        if trainer.step % every == 0 or trainer.step == steps:
            entry = {"step": trainer.step, "loss": torch.stack(recent).mean().item(), **trainer.caption_signal()}
            trainer.log.append(entry); recent.clear()
            say(kind, round(time.time() - t), json.dumps(entry))
            if time.time() > deadline:
                stopped = trainer.step
                break
    took = time.time() - t
    pipe = trainer.pipeline(data.codec).to(dtype=torch.float16)
    out = W / "out" / kind
    out.mkdir(parents=True, exist_ok=True)
    pipe.unet.save_pretrained(out / "unet")
    pipe.text_encoder.save_pretrained(out / "text_encoder")
    write_text(json.dumps({"recipe": asdict(r), "log": trainer.log, "seconds": took, "stopped": stopped, "text_read": trainer.text_read}, indent=1), out / "training.json")
    subprocess.run(f"cd {W}/out && tar cf - {kind} | split -b 15000000 - {OUT}/{kind}.tar.", shell=True, check=True)
    say(kind, "saved")


if __name__ == "__main__":
    phase, *rest = sys.argv[1:]
    if phase == "data":
        t = time.time(); (W / "contrastive").mkdir(parents=True, exist_ok=True); prepare_data(recipe("contrastive"), W / "contrastive"); say("data in", round(time.time() - t))
    elif phase == "warm":
        from w2w_lib.people.rendered import render_population
        t = time.time(); render_population("warm", range(1), 1, 128, 1); say("one picture in", round(time.time() - t, 1))
    elif phase == "smoke":
        smoke()
    elif phase == "refine":
        refine()
    else:
        train(rest[0], int(rest[1]), float(rest[2]))
