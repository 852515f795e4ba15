"""Which labels can be seen in pictures, and which can be edited."""

from collections.abc import Sequence

import pandas as pd

from w2w_lib.evaluation.attributes import AttributeClassifier, attribute_aucs, attribute_names, varying
from w2w_lib.inputs import instance, known_seed
from w2w_lib.people.people_set import People


def label_visibility(classifier: AttributeClassifier | None, people: People, seed: int = 0) -> pd.DataFrame:
    """AUC of the classifier's logits against people's labels, one row for each label, the most visible first.

    The column "labels shuffled" is a control: the same logits against the labels of other pictures. Without a
    classifier there are no rows.
    """
    columns = ["classifier", "labels shuffled"]
    if classifier is None:
        return pd.DataFrame(columns=columns, dtype=float)
    instance("classifier", classifier, AttributeClassifier), instance("people", people, People)
    labels = people.labels.loc[people.pictures["id"]].reset_index(drop=True)
    logits = classifier.logits(people.images)
    shuffled = attribute_aucs(logits, labels.sample(frac=1, random_state=known_seed(seed)).reset_index(drop=True))
    table = pd.DataFrame({columns[0]: attribute_aucs(logits, labels), columns[1]: shuffled}, dtype=float)
    return table.sort_values(columns[0], ascending=False)


def editable(labels: pd.DataFrame, wanted: Sequence[str]) -> list[str]:
    """Those of the wanted attributes that are labels which only some people have; the others are printed.

    ValueError where none is left.
    """
    instance("labels", labels, pd.DataFrame)
    wanted = attribute_names(wanted)
    found = varying(labels, wanted)
    if not found:
        known = ", ".join(varying(labels, labels.columns)) or "none"
        raise ValueError(f"{', '.join(wanted)}: expected labels that some people have and some have not, as {known}")
    if left_out := sorted(set(wanted) - set(found)):
        print(f"without {', '.join(left_out)}: not among the labels, incomplete, or the same for everybody")
    return found
