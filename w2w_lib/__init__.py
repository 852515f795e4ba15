"""weights2weights: many personalised diffusion models, the linear space of their weights, and what can be done in it.

The names below are the public API; the packages by role are ``models`` (the frozen base), ``lora`` (adapters),
``training`` (fleets and their dataset), ``space`` (components, directions, inversion), ``release`` (the authors'
released space), ``evaluation``, ``people``, ``pocket`` (how the shipped base was made) and ``workbook`` (the notebooks'
own machinery).
"""

from importlib import import_module

_HOME = {
    "AdapterLayout": "lora.layout",
    "Fleet": "training.fleet",
    "FleetRecipe": "training.recipe",
    "InversionRecipe": "space.inversion_recipes",
    "People": "people.people_set",
    "Sampling": "models.recipe",
    "WeightSpace": "space.weight_space",
    "WeightsDataset": "training.weights_dataset",
    "encode_images": "models.images",
    "fingerprint": "models.fingerprint",
    "fit_directions": "space.directions",
    "generate": "models.sampling",
    "import_release": "release.importing",
    "invert": "space.inversion",
    "load_adapter": "lora.adapter_files",
    "load_directions": "space.directions",
    "load_photo": "evaluation.photos",
    "open_base": "models.base",
    "save_adapter": "lora.adapter_files",
    "save_directions": "space.directions",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    """Import a public name when it is first used: a name of ``models`` alone does not load the face embedder."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
