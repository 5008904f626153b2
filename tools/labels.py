"""Labels for the points of a scatter plot, placed so that they overlap neither a point nor each other."""

import itertools
import math
from collections.abc import Iterable, Sequence
from random import Random
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.text import Annotation

# All in pixels.
_HALF_POINT = 2.5  # of the square that a point takes
_MARGIN = 3.0  # around a label
_DISTANCES = range(1, 100, 3)  # from a point to the edge of its label's margin, roughly
_LONGEST_GAP = 4.0  # between a point and a label without a line
_NEAR_ANOTHER = 30.0  # a label that is nearer to another point counts as so much further from its own

_DIRECTIONS = 24
_NUM_ORDERS = 100

Point = tuple[float, float]


class Box(NamedTuple):
    """A rectangle, in pixels.

    Attributes:
        left: the smallest x.
        bottom: the smallest y.
        right: the largest x.
        top: the largest y.
    """

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: "Box") -> bool:
        """Returns whether two boxes have an inner point in common."""
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )

    def contains(self, other: "Box") -> bool:
        """Returns whether the other box lies within this one."""
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.bottom <= other.bottom
            and other.top <= self.top
        )

    def nearest(self, point: Point) -> Point:
        """Returns the point of the box that is nearest to `point`."""
        return min(max(point[0], self.left), self.right), min(max(point[1], self.bottom), self.top)

    def distance(self, point: Point) -> float:
        """Returns the Euclidean distance from the box to `point`, in pixels; 0 inside the box."""
        return math.dist(point, self.nearest(point))


def box_around(point: Point, half_width: float, half_height: float) -> Box:
    """Returns the box with the centre `point`, 2 * half_width wide and 2 * half_height high, in pixels."""
    x, y = point
    return Box(x - half_width, y - half_height, x + half_width, y + half_height)


class Place(NamedTuple):
    """A possible position of a label.

    Attributes:
        label: the box of the label, margin included.
        line: boxes of one pixel along the line from the point to the label; none if the label is near its point.
        cost: the distance from the point to the label, in pixels, plus 30 if another point is nearer to the label.
    """

    label: Box
    line: tuple[Box, ...]
    cost: float

    def touches(self, boxes: Iterable[Box]) -> bool:
        """Returns whether the label or its line overlaps any of the boxes."""
        return any(own.overlaps(other) for other in boxes for own in (self.label, *self.line))


def label_points(panel: Axes, xs: Iterable[float], ys: Iterable[float], names: Sequence[str]) -> list[Annotation]:
    """Writes a name next to each point, with a thin line to the point if the label is not adjacent.

    The layout of the figure must be final, because positions are computed in pixels.

    Args:
        panel: the axes with the points.
        xs: the N x coordinates, in data units.
        ys: the N y coordinates, in data units.
        names: the N texts.

    Returns:
        The N labels, as Matplotlib annotations.

    Raises:
        ValueError: if there is no room for all labels.
    """
    points = [(x, y) for x, y in panel.transData.transform(list(zip(xs, ys, strict=True)))]
    labels = [panel.annotate(name, (0, 0), xycoords="axes fraction", fontsize=7, va="bottom") for name in names]
    sizes = [(label.get_window_extent().width, label.get_window_extent().height) for label in labels]
    places = find_places(points, sizes, Box(*panel.bbox.extents))
    for point, label, place in zip(points, labels, places, strict=True):
        corner = place.label.left + _MARGIN, place.label.bottom + _MARGIN
        label.set_position(tuple(panel.transAxes.inverted().transform(corner)))
        if place.line:
            ends = panel.transData.inverted().transform([point, place.label.nearest(point)])
            panel.plot(*ends.T, color="0.6", linewidth=0.5, zorder=0)
    return labels


def find_places(points: Sequence[Point], sizes: Sequence[tuple[float, float]], panel: Box) -> list[Place]:
    """Finds a free position for the label of each point, as near to it as possible.

    A greedy search: in a random order, each label takes the free position of least cost. Of 100 orders, the one with
    the least total cost is returned.

    Args:
        points: N pairs of coordinates, in pixels.
        sizes: N pairs (width, height) of the labels, in pixels.
        panel: the box that all labels must lie within.

    Returns:
        The N positions, in the order of the points.

    Raises:
        ValueError: if there is no room for all labels.
    """
    candidates = [_candidates(i, points, size, panel) for i, size in enumerate(sizes)]
    random = Random(0)
    orders = [random.sample(range(len(points)), len(points)) for _ in range(_NUM_ORDERS)]
    found = [places for places in (_place_in_order(order, candidates) for order in orders) if places]
    if not found:
        raise ValueError(f"There is no room for {len(points)} labels. Make the figure larger.")
    best = min(found, key=lambda places: sum(place.cost for place in places.values()))
    return [best[i] for i in range(len(points))]


def _candidates(i: int, points: Sequence[Point], size: tuple[float, float], panel: Box) -> list[Place]:
    """Returns the positions of the label of point i within the panel that overlap no point, in order of cost."""
    half_width, half_height = size[0] / 2 + _MARGIN, size[1] / 2 + _MARGIN
    (x, y), others = points[i], [*points[:i], *points[i + 1 :]]
    taken = [box_around(point, _HALF_POINT, _HALF_POINT) for point in others]
    own = box_around(points[i], _HALF_POINT, _HALF_POINT)
    places = []
    for distance, step in itertools.product(_DISTANCES, range(_DIRECTIONS)):
        angle = 2 * math.pi * step / _DIRECTIONS
        centre = x + math.cos(angle) * (distance + half_width), y + math.sin(angle) * (distance + half_height)
        label = box_around(centre, half_width, half_height)
        gap = label.distance(points[i])
        is_nearer_to_another = any(label.distance(point) < gap for point in others)
        place = Place(label, _line(points[i], label), gap + is_nearer_to_another * _NEAR_ANOTHER)
        if panel.contains(label) and not label.overlaps(own) and not place.touches(taken):
            places.append(place)
    return sorted(places, key=lambda place: place.cost)


def _line(point: Point, label: Box) -> tuple[Box, ...]:
    (x0, y0), (x1, y1) = point, label.nearest(point)
    length = math.dist((x0, y0), (x1, y1))
    if length <= _LONGEST_GAP:
        return ()
    count = math.ceil(length)
    shares = [i / count for i in range(count)]
    return tuple(box_around((x0 + (x1 - x0) * share, y0 + (y1 - y0) * share), 0.5, 0.5) for share in shares)


def _place_in_order(order: Sequence[int], candidates: Sequence[Sequence[Place]]) -> dict[int, Place] | None:
    places: dict[int, Place] = {}
    taken: list[Box] = []
    for i in order:
        free = next((place for place in candidates[i] if not place.touches(taken)), None)
        if free is None:
            return None
        places[i] = free
        taken += (free.label, *free.line)
    return places
