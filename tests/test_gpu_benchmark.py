"""The acceptance run on a GPU: what it does with its steps, and the page of them; its numbers need a card."""

import json
from xml.etree import ElementTree

import gpu
import pytest
import torch
from gpu_page import write_page
from gpu_steps import Step, all_steps
from results import Results
from typer import Typer
from typer.testing import CliRunner
from workplace import Sizes, layout_of

from w2w_lib.models.base import open_base
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.release.random_base import write_random_base

ABOUT = {"card": "H0", "code": "0" * 16, "rehearsal": False}


def fleet(models: int, rate: float, **also) -> dict:
    row = {"way": "fleet", "models": models, "compiled": False, "checkpointing": True, "models_per_hour": rate}
    return {"status": "done", "seconds": 1.0, "result": row | also}


MEASURED = {
    "card": {"status": "done", "seconds": 1.0, "result": {"name": "H0", "bf16_gemm_tflops": 700.0}},
    "PEFT's loop": fleet(1, 50.0, way="PEFT's loop", checkpointing=False),
    "fleet of 1, checkpointing": fleet(1, 60.0),
    "fleet of 8, checkpointing": fleet(8, 200.0),
    "fleet of 32": {"status": "done", "seconds": 1.0, "result": {"models": 32, "out_of_memory": True}},
    "inversion, 1,000 components": {"status": "done", "seconds": 1.0, "result": {"seconds_per_step": 0.1234567}},
    "inversion, 10,000 components": {"status": "failed", "seconds": 1.0, "error": "TypeError: a|b"},
    "sd15": {"status": "skipped", "why": "25 minutes were over"},
}


@pytest.fixture
def steps() -> list[Step]:
    return [Step(name, "all", lambda place, name=name: {"found": name}) for name in ("first", "second", "third")]


@pytest.fixture
def results(tmp_path, quick_disk) -> Results:
    return Results.opened(tmp_path / "gpu.json", ABOUT)


def here(step: Step) -> dict:
    return step.measure(None)


def test_a_done_step_is_not_taken_again(steps, results):
    taken = []
    gpu.run_all(steps[:2], results, here, minutes=1)
    again = Results.opened(results.path, ABOUT)
    gpu.run_all(steps, again, lambda step: taken.append(step.name) or here(step), minutes=1)
    assert taken == ["third"]
    written = json.loads(results.path.read_text())
    assert {name: step["result"]["found"] for name, step in written["steps"].items()} == {
        name: name for name in ("first", "second", "third")
    }


@pytest.mark.parametrize("other", [{"card": "H1"}, {"code": "1" * 16}, {"rehearsal": True}])
def test_another_card_or_code_begins_anew(steps, results, other):
    gpu.run_all(steps, results, here, minutes=1)
    assert not Results.opened(results.path, ABOUT | other).steps


def test_a_failing_step_is_recorded_and_the_rest_runs(steps, results):
    def run(step: Step) -> dict:
        if step.name == "second":
            raise RuntimeError("no luck\nand more")
        return here(step)

    gpu.run_all(steps, results, run, minutes=1)
    assert [step["status"] for step in results.steps.values()] == ["done", "failed", "done"]
    assert results.steps["second"]["error"] == "RuntimeError: no luck" and results.failed == ["second"]
    gpu.run_all(steps, results, here, minutes=1)
    assert not results.failed


def test_what_would_begin_too_late_is_skipped(steps, results):
    gpu.run_all(steps, results, here, minutes=-1)
    assert {step["status"] for step in results.steps.values()} == {"skipped"}
    gpu.run_all(steps, results, here, minutes=1)
    assert {step["status"] for step in results.steps.values()} == {"done"}


def test_without_a_card_it_refuses_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    app = Typer()
    app.command()(gpu.main)
    done = CliRunner().invoke(app, ["--out", str(tmp_path / "gpu.json")])
    assert done.exit_code == 1 and "--narrow" in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_steps_are_chosen_by_name_or_group():
    steps = all_steps(Sizes())
    assert len({step.name for step in steps}) == len(steps)
    assert [step.name for step in gpu.chosen(steps, "sd15")] == ["sd15"]
    fleets = [step.name for step in gpu.chosen(steps, "fleet")]
    assert len(fleets) == 1 + 2 * len(Sizes().fleets + Sizes().compiled_fleets)
    with pytest.raises(ValueError, match=r"no step 'fleets'; expected one of: card; .*fleet of 32, compiled"):
        gpu.chosen(steps, "fleets")


def test_page(tmp_path, quick_disk):
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps({"about": ABOUT, "steps": MEASURED}))
    text = write_page(path).read_text(encoding="utf-8")
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert " | 200 | 4 | " in rows["fleet of 8, checkpointing"]  # 4 times PEFT's loop
    assert rows["fleet of 32"].count(" | ") == rows["fleet of 8, checkpointing"].count(" | ")
    assert "0.123" in text and "0.1234" not in text  # three digits
    assert rows["inversion, 10,000 components"].endswith("| failed: TypeError: a/b |")
    assert rows["sd15"].endswith("| skipped: 25 minutes were over |")
    assert "rehearsal" not in text
    assert ElementTree.parse(tmp_path / "gpu.svg").getroot().tag.endswith("svg") and "](gpu.svg)" in text


def test_page_of_a_rehearsal_says_so(tmp_path, quick_disk):
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps({"about": ABOUT | {"rehearsal": True}, "steps": {}}))
    assert "these numbers mean nothing" in write_page(path).read_text(encoding="utf-8")
    assert not (tmp_path / "gpu.svg").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"about": {}, "steps": {"card": {}}}'])
def test_another_json_is_refused(tmp_path, text):
    path = tmp_path / "gpu.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="is no JSON of steps"):
        write_page(path)


def test_narrow_base_opens(tmp_path):
    pipeline = open_base(write_random_base(tmp_path / "base", dtype=torch.bfloat16), device="cpu")
    layout = layout_of(pipeline)
    assert pipeline.unet.config.sample_size == 8 and layout.base == fingerprint(pipeline)
    assert len(layout.factors) == 2 * 64  # the modules of Stable Diffusion 1.5
