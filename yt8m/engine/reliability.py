"""Reliability diagrams: how often predictions come true, as a picture for people and for TensorBoard."""

from collections.abc import Mapping

import numpy as np

from yt8m.engine.calibration import Reliability

_SIZE, _MARGIN = 320, 45  # of the square that is drawn in, and around it, in pixels
_COLOURS = ("#4477aa", "#ee6677")
_IMAGE_SIZE = 200  # pixels of TensorBoard's picture


def reliability_svg(diagrams: Mapping[str, Reliability]) -> str:
    """Returns a reliability diagram as the text of an SVG file.

    Every bin is a point: mean prediction against the share of predictions that came true. On the diagonal predictions
    are frequencies.

    Args:
        diagrams: one or two, by their name in the legend.
    """
    size, end = _SIZE + 2 * _MARGIN, _MARGIN + _SIZE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" font-family="sans-serif" font-size="12">',
        f'<rect width="{size}" height="{size}" fill="white"/>',
        f'<rect x="{_MARGIN}" y="{_MARGIN}" width="{_SIZE}" height="{_SIZE}" fill="none" stroke="black"/>',
        f'<line x1="{_MARGIN}" y1="{end}" x2="{end}" y2="{_MARGIN}" stroke="gray" stroke-dasharray="4"/>',
        f'<text x="{size / 2}" y="{size - 8}" text-anchor="middle">mean prediction</text>',
        f'<text transform="translate(14,{size / 2}) rotate(-90)" text-anchor="middle">share of labels</text>',
    ]
    for value in (0.0, 0.5, 1.0):
        parts += [
            f'<text x="{_MARGIN + value * _SIZE}" y="{end + 16}" text-anchor="middle">{value}</text>',
            f'<text x="{_MARGIN - 6}" y="{end - value * _SIZE + 4}" text-anchor="end">{value}</text>',
        ]
    for number, ((name, diagram), colour) in enumerate(zip(diagrams.items(), _COLOURS, strict=False)):
        known = diagram.num_predictions > 0
        xs = _MARGIN + diagram.mean_predictions[known] * _SIZE
        ys = end - diagram.frequencies[known] * _SIZE
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in zip(xs, ys, strict=True)]
        legend = f"{name}, calibration error {diagram.calibration_error:.2g}"
        parts.append(f'<text x="{_MARGIN}" y="{16 + 16 * number}" fill="{colour}">{legend}</text>')
    return "\n".join([*parts, "</svg>", ""])


def reliability_image(diagram: Reliability) -> np.ndarray:
    """Returns a reliability diagram as `(1, 200, 200, 3)` uint8 pixels: a bar per bin, and the diagonal.

    The height of a bar is the share of its predictions that came true; on the diagonal predictions are frequencies.
    """
    pixels = np.full((_IMAGE_SIZE, _IMAGE_SIZE, 3), 255, np.uint8)
    columns = np.arange(_IMAGE_SIZE)
    bins = columns * len(diagram.frequencies) // _IMAGE_SIZE
    heights = np.nan_to_num(diagram.frequencies)[bins] * _IMAGE_SIZE
    pixels[columns[::-1, np.newaxis] < heights] = (0x44, 0x77, 0xAA)
    pixels[columns[::-1], columns] = 0
    return pixels[np.newaxis]
