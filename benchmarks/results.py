"""A JSON of steps that a second run goes on with: each is written when it is done."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from w2w_lib.files.atomic import write_text


@dataclass
class Results:
    """What was found by step, and what it was found with: another card or code begins anew."""

    path: Path
    about: dict
    steps: dict[str, dict] = field(default_factory=dict)

    @classmethod
    def opened(cls, path: Path, about: dict) -> "Results":
        """The results at ``path``, with the steps that the same card and code made."""
        earlier = read(path) if path.exists() else {}
        return cls(path, about, earlier["steps"] if earlier.get("about") == about else {})

    def done(self, name: str) -> bool:
        return self.steps.get(name, {}).get("status") == "done"

    def record(self, name: str, status: str, **found) -> None:
        """Write what became of a step: "done", "failed" or "skipped"."""
        self.steps[name] = {"status": status, **found}
        content = {"about": self.about, "steps": self.steps}
        write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", self.path)

    @property
    def failed(self) -> list[str]:
        return [name for name, step in self.steps.items() if step["status"] == "failed"]


def read(path: str | Path) -> dict:
    """The file's ``about`` and ``steps``; ValueError for anything else."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        _ = found["about"], {name: step["status"] for name, step in found["steps"].items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ValueError(f"{path}: is no JSON of steps; expected one that `gpu.py` wrote; move it away") from None
    return found
