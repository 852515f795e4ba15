"""The pocket world: a population of rendered people with exact labels, captions and counterfactuals."""

from .captions import VOCABULARY, as_text, caption, caption_features, caption_full
from .meaning import meaning
from .person import ATTRIBUTES, Person, Traits, counterfactual, sample_person
from .population import render_population
from .render import render
from .view import View, sample_view

__all__ = [
    "ATTRIBUTES",
    "VOCABULARY",
    "Person",
    "Traits",
    "View",
    "as_text",
    "caption",
    "caption_features",
    "caption_full",
    "counterfactual",
    "meaning",
    "render",
    "render_population",
    "sample_person",
    "sample_view",
]
