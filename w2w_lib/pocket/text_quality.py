"""What can be read linearly from the text state at a caption's end, by feature, on people not fitted on."""

import numpy as np
import pandas as pd
from diffusers import StableDiffusionPipeline
from jaxtyping import Shaped
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from w2w_lib.people.rendered.captions import caption_full
from w2w_lib.people.rendered.meaning import meaning
from w2w_lib.people.rendered.person import sample_person
from w2w_lib.people.rendered.view import sample_view
from w2w_lib.pocket.text_states import caption_summaries

AUC, R2 = "AUC", "R²"
PENALTIES = np.logspace(-2, 4, 7)  # of ridge regression, chosen by leave-one-out


def caption_readout(pipeline: StableDiffusionPipeline, split: str, people: int) -> pd.DataFrame:
    """How well each feature of a full caption is read from its summary, and from its words themselves.

    Ridge regression, fitted on the first half of the split's first ``people`` people and scored on the others. Rows
    (feature, measure): the coefficient of determination of amounts, the AUC of what is there or not, of several the
    mean. Columns ``summary`` and ``words``.
    """
    described = [(sample_person(split, i), sample_view(split, i, 0)) for i in range(people)]
    captions = [caption_full(*one) for one in described]
    states = caption_summaries(pipeline, captions)[:, 0].float().numpy()
    words = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\w+").fit_transform(captions).toarray()
    return readout_scores({"summary": states, "words": words}, [meaning(*one) for one in described])


def readout_scores(
    inputs: dict[str, Shaped[np.ndarray, "people values"]], truth: list[dict[str, list[float]]]
) -> pd.DataFrame:
    """Scores of ridge regression from each of the inputs, by feature and measure."""
    features = [name for name, values in truth[0].items() for _ in values]
    numbers = np.array([[value for values in one.values() for value in values] for one in truth])
    half = len(numbers) // 2
    measures = [AUC if np.isin(column, (0, 1)).all() else R2 for column in numbers.T]
    scores = {}
    for name, values in inputs.items():
        model = make_pipeline(StandardScaler(), RidgeCV(PENALTIES, alpha_per_target=True))
        read = model.fit(values[:half], numbers[:half]).predict(values[half:])
        scores[name] = [_score(*one) for one in zip(measures, numbers[half:].T, read.T, strict=True)]
    index = pd.MultiIndex.from_arrays([features, measures], names=["feature", "measure"])
    return pd.DataFrame(scores, index=index).groupby(level=[0, 1], sort=False).mean()


def _score(measure: str, true: np.ndarray, read: np.ndarray) -> float:
    """Not a number for an attribute that everybody or nobody has."""
    if measure == R2:
        return r2_score(true, read)
    return roc_auc_score(true, read) if len(np.unique(true)) == 2 else float("nan")
