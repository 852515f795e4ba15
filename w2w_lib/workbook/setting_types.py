"""The types that settings are made of, and the model of a section: ranges, names, places."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from w2w_lib.inputs import a_path
from w2w_lib.lora.recipe import TARGETS
from w2w_lib.people.recipe import PeopleRecipe
from w2w_lib.people.rendered.person import ATTRIBUTES
from w2w_lib.space.method_names import known_method
from w2w_lib.workbook import paths

MOST = 1_000_000  # of anything: more is a slip of the keyboard
WRITABLE = ("data", "outputs")  # the folders of the repository that runs write to


def _filled(text: Any) -> Any:
    if isinstance(text, str) and (not text.strip() or "\0" in text):
        raise ValueError("expected a text that is not empty")
    return text


def _inside(path: Path) -> Path:
    if ".." in path.parts or len(path.parts) < 2 or path.parts[0] not in WRITABLE:
        raise ValueError(f"expected a path in the repository's {' or '.join(WRITABLE)}, found {str(path)!r}")
    return path


def located(recipe: PeopleRecipe) -> PeopleRecipe:
    """With paths that do not depend on where the process runs."""
    given = {name: path for name in ("source", "labels") if (path := getattr(recipe, name)) is not None}
    return replace(recipe, **{name: paths.ROOT / a_path(path, "people's files") for name, path in given.items()})


def distinct(values: list) -> list:
    if len(set(values)) < len(values):
        raise ValueError(f"expected each value once, found {values}")
    return values


def rising(values: list) -> list:
    if sorted(set(values)) != values:
        raise ValueError(f"expected rising numbers, found {values}")
    return values


Count = Annotated[int, Field(ge=1, le=MOST)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=MOST)]
Strength = Annotated[float, Field(ge=-100, le=100)]  # an edit's; further out every picture is noise
Attributes = Annotated[int, Field(ge=0, le=len(ATTRIBUTES))]  # how many
Text = Annotated[str, BeforeValidator(_filled)]
Prompts = Annotated[list[Text], Field(min_length=1)]
Rising = Annotated[list[Annotated[int, Field(ge=2, le=MOST)]], Field(min_length=2), AfterValidator(rising)]
Names = Annotated[list[Text], Field(min_length=1), AfterValidator(distinct)]
Written = Annotated[Path, BeforeValidator(_filled), AfterValidator(_inside)]  # relative to the repository
Given = Annotated[Path, BeforeValidator(_filled), AfterValidator(partial(a_path, expected="a file"))]  # anywhere
Targets = Literal[tuple(TARGETS)]
Method = Annotated[str, AfterValidator(known_method)]  # of fitting directions
NotNegative = Annotated[float, Field(ge=0, le=MOST)]
Domain = Literal[  # of w2w_lib.evaluation.domains.DOMAINS
    "line drawing", "posterised", "gray", "hue-shifted", "oil-like", "strongly lit", "half covered"
]


class Section(BaseModel):
    """Settings that do not change, and no others."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
