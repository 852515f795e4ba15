"""The words for an edit: what a prompt or a text score says of an attribute given or taken away."""

from collections.abc import Sequence

from w2w_lib.evaluation.base_quality import PROMPTS
from w2w_lib.inputs import nearest, some
from w2w_lib.models.prompts import INSTANCE_PROMPT


def with_words(attributes: Sequence[str]) -> list[str]:
    """Those of the attributes that there are words for; ValueError where there are none."""
    if known := [name for name in attributes if name in PROMPTS]:
        return known
    raise ValueError(
        f"attributes {some(list(attributes))}: there are words for none of them; expected some of {some(list(PROMPTS))}"
    )


def described(attribute: str, given: bool) -> str:
    """The words that give an attribute, or take it away; ValueError for one that captions have no words for."""
    if attribute not in PROMPTS:
        raise ValueError(f"no words for attribute {attribute!r}{nearest(str(attribute), PROMPTS)}")
    return PROMPTS[attribute][0 if given else 1]


def asked_for(prompt: str, attribute: str, given: bool) -> str:
    """A personal model's prompt with the attribute in it: "sks person, smiling" as "sks man, smiling".

    The paper's baseline "prompting" (Dravid et al. 2024, §4.3). ValueError for a prompt that does not name the person.
    """
    if INSTANCE_PROMPT not in prompt:
        raise ValueError(f"prompt {prompt!r}: expected one with {INSTANCE_PROMPT!r} in it")
    noun, *phrases = described(attribute, given).split(", ")
    subject = INSTANCE_PROMPT if phrases else INSTANCE_PROMPT.replace("person", noun)
    return prompt.replace(INSTANCE_PROMPT, ", ".join([subject, *phrases]), 1)
