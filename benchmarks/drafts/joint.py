"""joint.py STEPS MINUTES OUT : go on from the GPU base with the text encoder trained along, and names of well-known people."""
import json, re, sys, time
from pathlib import Path
import numpy as np, torch, torch.nn.functional as F
from safetensors.torch import load_file
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from transformers import CLIPTextModel
from w2w_lib.people.rendered import render_population
from w2w_lib.people.rendered.captions import VOCABULARY, as_text, caption_features, view_phrases
from w2w_lib.people.rendered.person import sample_person
from w2w_lib.people.rendered.view import sample_view
from w2w_lib.pocket.architecture import MAX_TOKENS, build_tokenizer, build_text_encoder, pocket_scheduler
from w2w_lib.pocket.codec import PatchCodec
from w2w_lib.pocket.codec_training import face_weight
from w2w_lib.training import compilation

NAMED, NAMED_VIEWS, PEOPLE, VIEWS, CAPTIONS = 1000, 12, 9000, 2, 6
SHARE = 0.4  # of a batch: pictures of named people
BATCH = 64
W = Path("/tmp/joint"); W.mkdir(exist_ok=True)
BASE = Path("/work/main/data/base/pocket")

def names(count):
    rng, found = np.random.default_rng(0), []
    while len(found) < count:
        w = "".join(rng.choice(list("bdfgklmnprstvz")) + rng.choice(list("aeiou")) for _ in range(3))
        if w not in found and w not in VOCABULARY and w != "sks": found.append(w)
    return found

NAMES = names(NAMED)

def data():
    cache = W / "data.pt"
    if cache.exists(): return torch.load(cache, weights_only=True)
    codec = PatchCodec.from_pretrained(BASE / "vae", torch_dtype=torch.float32)
    tok = build_tokenizer([*VOCABULARY, *NAMES])
    assert all(len(tok(n).input_ids) == 3 for n in NAMES[:200])
    out = {}
    for part, split, people, views in (("named", "base_named", NAMED, NAMED_VIEWS), ("general", "base", PEOPLE, VIEWS)):
        im, _ = render_population(split, range(people), views, 128)
        im = torch.from_numpy(im.reshape(-1, 128, 128, 3)).permute(0, 3, 1, 2)
        with torch.no_grad(): z = torch.cat([codec.encoder(p / 127.5 - 1) for p in im.split(512)])
        texts = []
        for i in range(people):
            person = sample_person(split, i)
            for v in range(views):
                view = sample_view(split, i, v); rng = np.random.default_rng([0, i, v]); seen = view_phrases(view)
                for _ in range(CAPTIONS):
                    f = {} if rng.random() < 0.05 else caption_features(person, view, rng)
                    if part == "named" and f:
                        f = {k: p for k, p in f.items() if k in seen or k in ("opening", "gender")}
                        text = re.sub(r"\b(?:a )?(person|man|woman)\b", NAMES[i], as_text(f), count=1)
                    else:
                        text = as_text(f)
                    texts.append(text)
        print(part, texts[:8], flush=True)
        ids = torch.cat([torch.tensor(tok(texts[k:k+50000], padding="max_length", max_length=MAX_TOKENS, truncation=True).input_ids, dtype=torch.int16) for k in range(0, len(texts), 50000)])
        out |= {f"{part}_z": z, f"{part}_tokens": ids.reshape(len(z), CAPTIONS, MAX_TOKENS)}
    torch.save(out, cache)
    return out

def build():
    tok = build_tokenizer([*VOCABULARY, *NAMES]); old = build_tokenizer(VOCABULARY)
    torch.manual_seed(0)
    enc = build_text_encoder(tok, 128, 3)
    src = CLIPTextModel.from_pretrained(BASE / "text_encoder", torch_dtype=torch.float32).state_dict()
    k = next(n for n in src if "token_embedding" in n)
    emb = enc.state_dict()[k].clone()
    ov, nv = old.get_vocab(), tok.get_vocab()
    for w, i in ov.items():
        if w in nv and w != "sks</w>": emb[nv[w]] = src[k][i]
    enc.load_state_dict(src | {k: emb})
    unet = UNet2DConditionModel.from_pretrained(BASE / "unet", torch_dtype=torch.float32)
    return tok, enc, unet

def main(steps, minutes, out):
    d = data(); tok, enc, unet = build()
    codec = PatchCodec.from_pretrained(BASE / "vae", torch_dtype=torch.float32)
    unet.set_attn_processor(AttnProcessor())
    masters = [p.detach().clone().requires_grad_() for p in unet.parameters()]
    unet.to(torch.bfloat16, memory_format=torch.channels_last)
    forward = compilation.compiled(unet)
    for m in masters: m.grad = torch.zeros_like(m)
    emb = enc.get_input_embeddings().weight
    rest = [p for p in enc.parameters() if p is not emb]
    opt = torch.optim.AdamW([{"params": masters, "lr": 4e-4}, {"params": rest, "lr": 3e-4}, {"params": [emb], "lr": 2e-3, "weight_decay": 0.0}], betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    sched = get_cosine_schedule_with_warmup(opt, 200, steps)
    ema = EMAModel([*masters, *enc.parameters()], decay=0.998, use_ema_warmup=True, power=0.75, foreach=True)
    noise_s, weight = pocket_scheduler(), face_weight(8, 8, 3.0)
    step, log = 0, []
    ck = W / "ck.pt"
    if ck.exists():
        s = torch.load(ck, weights_only=True); step = s["step"]
        with torch.no_grad():
            torch._foreach_copy_(masters, s["masters"]); torch._foreach_copy_([*unet.parameters()], masters)
            torch._foreach_copy_([*enc.parameters()], s["enc"]); torch._foreach_copy_(ema.shadow_params, s["ema"])
        opt.load_state_dict(s["opt"]); sched.load_state_dict(s["sched"]); ema.optimization_step = step
    HELD = 64
    def loss_of(fw, z, tokens, rng, t):
        with torch.autocast("cpu", torch.bfloat16): text = enc(tokens.long()).last_hidden_state
        n = torch.randn(z.shape, generator=rng)
        noisy, target = noise_s.add_noise(z, n, t), noise_s.get_velocity(z, n, t)
        p = fw(noisy.to(torch.bfloat16, memory_format=torch.channels_last), t, text.to(torch.bfloat16)).sample
        return (F.mse_loss(p.float(), target, reduction="none") * weight).mean()
    @torch.no_grad()
    def signal():
        r = {}
        for part in ("general", "named"):
            z, tk = d[f"{part}_z"][-HELD:], d[f"{part}_tokens"][-HELD:]
            best = (tk != tok.eos_token_id).sum(-1).argmax(1); tk = tk[torch.arange(HELD), best]
            t = torch.linspace(300, 999, HELD).long()[torch.randperm(HELD, generator=torch.Generator().manual_seed(1))]
            for kind, tokens in (("right", tk), ("wrong", tk.roll(13 if part == "named" else 7, 0))):
                r[f"{part}_{kind}"] = round(loss_of(unet, z, tokens, torch.Generator().manual_seed(1), t).item(), 4)
        return r
    def save():
        u = UNet2DConditionModel.from_config(unet.config); n = len(masters)
        e = build_text_encoder(tok, 128, 3)
        with torch.no_grad():
            torch._foreach_copy_([*u.parameters()], [a for a in ema.shadow_params[:n]]); torch._foreach_copy_([*e.parameters()], ema.shadow_params[n:])
        p = StableDiffusionPipeline(vae=codec, text_encoder=e.eval(), tokenizer=tok, unet=u.eval(), scheduler=pocket_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        p.to(dtype=torch.float16).save_pretrained(out)
        torch.save({"step": step, "masters": masters, "enc": [*enc.parameters()], "ema": ema.shadow_params, "opt": opt.state_dict(), "sched": sched.state_dict()}, ck)
    print("start", signal(), flush=True)
    began, recent = time.time(), []
    named_n = round(SHARE * BATCH)
    while step < steps and time.time() - began < 60 * minutes:
        rng = torch.Generator().manual_seed(7_000_003 + step)
        gi = torch.randint(len(d["general_z"]) - HELD, (BATCH - named_n,), generator=rng); ni = torch.randint(len(d["named_z"]), (named_n,), generator=rng)
        gc, nc = (torch.randint(CAPTIONS, (len(k),), generator=rng) for k in (gi, ni))
        z = torch.cat([d["general_z"][gi], d["named_z"][ni]]); tokens = torch.cat([d["general_tokens"][gi, gc], d["named_tokens"][ni, nc]])
        t = ((torch.randperm(BATCH, generator=rng) + torch.rand(BATCH, generator=rng)) / BATCH * 1000).long().clamp(max=999)
        loss = loss_of(forward, z, tokens, rng, t); loss.backward()
        ps = [*unet.parameters()]
        torch._foreach_copy_([m.grad for m in masters], [p.grad for p in ps])
        torch.nn.utils.clip_grad_norm_(masters, 1.0); torch.nn.utils.clip_grad_norm_([*enc.parameters()], 1.0)
        opt.step(); sched.step()
        with torch.no_grad(): torch._foreach_copy_(ps, masters)
        for p in ps: p.grad = None
        for p in enc.parameters(): p.grad = None
        ema.step([*masters, *enc.parameters()]); step += 1; recent.append(loss.item())
        if step % 250 == 0: print(step, round(time.time() - began), "loss", round(np.mean(recent), 4), signal(), flush=True); recent = []
        if step % 1000 == 0: save()
    save(); print("done", step, flush=True)

if __name__ == "__main__":
    if sys.argv[1] == "data": data()
    else: main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3])
