"""The trade-off plot shows what it was given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from w2w_lib.evaluation.intervals import Interval
from w2w_lib.workbook.cost_plot import against_cost


def test_marks_lie_at_cost_and_value_in_order_of_cost():
    points = [
        ("slow", "200", 3.0, Interval(0.7, 0.6, 0.8)),
        ("slow", "50", 1.0, Interval(0.5, 0.4, 0.55)),
        ("fast", "a$b", 0.1, Interval(0.6, 0.5, 0.7)),
    ]
    ax = against_cost(points, "seconds", "ID")
    ax.figure.canvas.draw()
    slow, fast = (container.lines[0] for container in ax.containers)
    np.testing.assert_allclose(slow.get_xydata(), [(1, 0.5), (3, 0.7)])
    np.testing.assert_allclose(fast.get_xydata(), [(0.1, 0.6)])
    assert [text.get_text() for text in ax.texts] == ["50", "200", "a\\$b"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["slow", "fast"]
    plt.close(ax.figure)


def test_costs_of_nothing_are_refused():
    for points in ([], [("a", "", 0.0, Interval(1, 1, 1))]):
        with pytest.raises(ValueError, match="each with a cost above 0"):
            against_cost(points, "seconds", "ID")
