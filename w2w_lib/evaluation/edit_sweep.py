"""Several methods of editing at several strengths, measured alike: the table that comparisons are read from."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, UInt8
from tqdm import tqdm

from w2w_lib.evaluation.edit_judge import EditJudge
from w2w_lib.evaluation.intervals import Interval, mean, over_people
from w2w_lib.evaluation.trade_off import area_between, area_under, reached, swept

# Paints everybody after an edit of an attribute (given to these people, taken from the others), at a share of the
# paper's strength.
Painter = Callable[[str, Bool[np.ndarray, " people"], float], UInt8[np.ndarray, "people shots height width 3"]]


def sweep(
    judge: EditJudge,
    methods: Mapping[str, Painter],
    attributes: Sequence[str],
    shares: Sequence[float] = (1.0,),
    rows: Sequence[int] | None = None,
    faces: bool = True,
) -> pd.DataFrame:
    """The judge's scores of every method, attribute and share of strength, a row for each person.

    ``rows`` are the positions of the people whom the methods paint, all of the judge's if there are none; ``faces`` as
    for ``EditJudge.scores``.
    """
    rows = range(len(judge.people)) if rows is None else rows
    parts = [(method, attribute, share) for method in methods for attribute in attributes for share in shares]
    tables = []
    for method, attribute, share in tqdm(parts, desc="edits", unit="edit"):
        images = methods[method](attribute, ~judge.shows(attribute)[list(rows)], share)
        table = judge.scores(images, attribute, rows, faces)
        tables.append(table.assign(method=method, attribute=attribute, strength=share))
    return pd.concat(tables, ignore_index=True)


def from_zero(scores: pd.DataFrame, identity: float = 1.0) -> pd.DataFrame:
    """The same table with a strength 0 for each method, attribute and person, where an edit changes nothing."""
    keys = ["person", "method", "attribute"]
    start = scores[keys].drop_duplicates().assign(strength=0.0)
    unchanged = {name: 0.0 for name in scores.columns if name not in start}
    unchanged |= {name: identity for name in ("identity",) if name in unchanged}
    return pd.concat([start.assign(**unchanged), scores], ignore_index=True)


def at_equal_effect(scores: pd.DataFrame, column: str, methods: Sequence[str] | None = None) -> pd.DataFrame:
    """The mean of a column up to the largest effect that every method reaches: a row for each attribute.

    ``scores`` are swept from 0 (``from_zero``). The column ``level`` is that effect.
    """
    methods = list(dict.fromkeys(scores["method"])) if methods is None else list(methods)
    found = {}
    for attribute in dict.fromkeys(scores["attribute"]):
        effects = {method: swept(scores, method, attribute, "effect") for method in methods}
        level = reached(effects.values())
        costs = {m: area_under(effects[m], swept(scores, m, attribute, column), level) for m in methods}
        found[attribute] = costs | {"level": level}
    return pd.DataFrame.from_dict(found, orient="index")


def gap_at_equal_effect(
    scores: pd.DataFrame, column: str, method: str, reference: str, attributes: Sequence[str]
) -> Interval:
    """How far a method is above another in a column at equal effect, with its interval over people.

    For each attribute the mean over all effects up to the largest that both reach (``area_between``), then the mean
    over the ``attributes``. ``scores`` are swept from 0, of the same people for both; each draw of people has levels of
    its own. NaN without attributes, and where a method changes none of them in the wanted way.
    """
    if not attributes:
        return Interval(float("nan"), float("nan"), float("nan"))
    columns = [(one, name) for one in (method, reference) for name in ("effect", column)]
    curves = [np.stack([swept(scores, one, a, name) for a in attributes], axis=1) for one, name in columns]

    def gap(*drawn: Float[np.ndarray, "people attributes strengths"]) -> float:
        return mean(np.array([area_between(*(curve[:, k] for curve in drawn)) for k in range(len(attributes))]))

    return over_people(*curves, statistic=gap)
