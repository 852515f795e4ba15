"""The names of the ways in which directions are fitted; ``w2w_lib.space.direction_methods`` has what they stand for."""

from w2w_lib.inputs import nearest

NAMES = ("paper", "class means", "joint", "paper, joint", "lda", "logistic")


def known_method(method: str) -> str:
    """One of ``NAMES``; ValueError for another."""
    if not isinstance(method, str) or method not in NAMES:
        raise ValueError(f"no method {method!r}{nearest(str(method), NAMES)}")
    return method
