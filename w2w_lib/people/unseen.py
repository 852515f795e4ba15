"""Further pictures of people, which no method has seen."""

from w2w_lib.inputs import instance, whole_number
from w2w_lib.people.people_set import People


def unseen_views(split: str, count: int, seen: int, views: int, size: int = 64) -> People:
    """The first ``count`` rendered people of a split, each in ``views`` pictures after the ``seen`` ones."""
    seen, views = whole_number("seen", seen), whole_number("views", views)
    return later_views(People.render(split, count, seen + views, size), seen)


def later_views(people: People, skip: int) -> People:
    """Everybody's pictures after the first ``skip``; ValueError where somebody has no more than these."""
    instance("people", people, People)
    place = people.pictures.groupby("id").cumcount().to_numpy()
    kept = place >= whole_number("skip", skip, 0)
    pictures = people.pictures[kept].reset_index(drop=True)
    if len(set(pictures["id"])) < len(people.ids):
        raise ValueError(f"people with {skip} pictures or fewer: expected more of everybody")
    return People(people.images[kept], pictures, people.labels)
