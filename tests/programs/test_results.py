"""The figure of docs/results.md: every name is legible."""

import itertools

import pytest

from tools.labels import Box, find_places
from tools.results import scores_figure


def test_names_touch_neither_points_nor_each_other_nor_the_edge() -> None:
    figure = scores_figure()
    figure.draw_without_rendering()
    for panel in figure.axes:
        names = [text.get_window_extent() for text in panel.texts]
        points = panel.transData.transform(panel.collections[0].get_offsets())
        assert len(names) == len(points) > 20
        assert not [pair for pair in itertools.combinations(names, 2) if pair[0].overlaps(pair[1])]
        assert not [point for point in points for name in names if name.padded(2).contains(*point)]
        assert all(panel.bbox.contains(*corner) for name in names for corner in (name.min, name.max))


def test_a_label_with_free_room_is_next_to_its_point() -> None:
    (place,) = find_places([(50.0, 50.0)], [(20.0, 8.0)], Box(0, 0, 100, 100))
    assert not place.line
    assert place.label.distance((50.0, 50.0)) < 4


def test_the_second_of_two_close_points_gets_a_line_or_another_side() -> None:
    # Side by side: their labels of 20 x 8 pixels and a margin of 3 cannot both be on the right.
    first, second = find_places([(50.0, 50.0), (56.0, 50.0)], [(20.0, 8.0)] * 2, Box(0, 0, 100, 100))
    assert not first.touches([second.label, *second.line])


def test_labels_without_room_are_an_error() -> None:
    with pytest.raises(ValueError, match="no room for 2 labels"):
        find_places([(10.0, 10.0), (12.0, 10.0)], [(20.0, 8.0)] * 2, Box(0, 0, 28, 20))
