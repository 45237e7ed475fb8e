"""The embedded digits made harder: turned, scaled and moved in a picture of 32x32 pixels, lighter than the paper; and
hard: darker or lighter, with pieces of others around."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modules.datasets.embedded.digits import open_digits
from modules.datasets.sources import ArraySource

SIZE = 32       # pixels of a side
MARGIN = 2      # pixels at each side that a centre crop of 7/8 leaves out; no shape reaches there unturned
VARIANTS = 3    # pictures made of each digit
_PIECE = 4      # pixels of a side of a piece, of the 8 of a digit


@dataclass(frozen=True)
class Style:
    """How pictures are drawn.

    Args:
        scale: range of how large the digits of 8x8 pixels are drawn.
        angle: how far they are turned to either side, in radians.
        pieces: of other digits, in each picture.
        darker: half of the digits are darker than their paper; otherwise all are lighter.
    """

    scale: tuple[float, float]
    angle: float
    pieces: int = 0
    darker: bool = False


MOVED = Style((2.5, 3.1), 0.3)
CLUTTERED = Style((2.0, 2.9), 0.4, pieces=2, darker=True)


def open_moved_digits() -> tuple[ArraySource, ArraySource]:
    """The (training, validation) sources without clutter: 4,326 and 1,065 pictures, the same on every machine. Each
    part is made of its own digits alone."""
    return _draw_all(MOVED)


def open_cluttered_digits() -> tuple[ArraySource, ArraySource]:
    """The same with clutter, as in the cluttered digits of Mnih et al., "Recurrent Models of Visual Attention"
    (2014)."""
    return _draw_all(CLUTTERED)


def _draw_all(style: Style) -> tuple[ArraySource, ArraySource]:
    return tuple(_draw_source(source, style, np.random.Generator(np.random.PCG64(part)))
                 for part, source in enumerate(open_digits()))


def _draw_source(source: ArraySource, style: Style, rng: np.random.Generator) -> ArraySource:
    digits = source.pixels[..., 0].astype(np.float32) / 255
    order = np.repeat(np.arange(len(digits)), VARIANTS)
    pictures = [draw(digits, chosen, style, rng) for chosen in np.array_split(order, max(len(order) // 256, 1))]
    return ArraySource(np.concatenate(pictures), source.classes, source.labels[order])


def draw(digits: np.ndarray, chosen: np.ndarray, style: Style, rng: np.random.Generator) -> np.ndarray:
    """Pictures, uint8 (B, 32, 32, 3), such as (256, 32, 32, 3), of the digits number `chosen` (B,) of `digits` (N, 8,
    8) in 0..1."""
    count, turn = len(chosen), style.angle
    ink = _place(digits[chosen], rng.uniform(*style.scale, count), rng.uniform(-turn, turn, count), rng)
    for _ in range(style.pieces):
        others, (tops, lefts) = rng.integers(len(digits), size=count), rng.integers(8 - _PIECE + 1, size=(2, count))
        span = np.arange(_PIECE)
        cuts = digits[others[:, None, None], (tops[:, None] + span)[:, :, None], (lefts[:, None] + span)[:, None]]
        placed = _place(cuts, rng.uniform(1.4, 2.2, count), rng.uniform(0, 2 * np.pi, count), rng)
        ink = np.maximum(ink, 0.8 * placed)
    pen, paper = (rng.uniform(*ends, (count, 1, 1, 3)).astype(np.float32) for ends in ((0.5, 1), (0, 0.45)))
    if style.darker:
        swapped = rng.random((count, 1, 1, 1)) < 0.5
        paper, pen = np.where(swapped, paper, pen), np.where(swapped, pen, paper)
    pictures = paper + ink[..., None] * (pen - paper) + 0.03 * rng.standard_normal((count, SIZE, SIZE, 3), np.float32)
    return np.rint(np.clip(pictures, 0, 1) * 255).astype(np.uint8)


def _place(shapes: np.ndarray, scale: np.ndarray, angle: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`shapes` (B, side, side) on fields (B, 32, 32), `scale` (B,) times as large and turned by `angle` (B,) in
    radians, by bilinear interpolation. Their middles are drawn so that unturned shapes lie within the margin."""
    count, side = len(shapes), shapes.shape[1]
    reach = side * scale / 2
    least = reach + MARGIN
    middle = (least + rng.random((2, count)) * (SIZE - 1 - 2 * least)).astype(np.float32)
    y, x = (np.arange(SIZE, dtype=np.float32) - m[:, None] for m in middle)
    y, x = y[:, :, None], x[:, None]
    cosine, sine = ((f(angle) / scale).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    edge = (side - 1) / 2 + 1  # of the middle, in a shape with a frame of one pixel
    rows = np.clip(cosine * y - sine * x + edge, 0, side + 1)
    columns = np.clip(sine * y + cosine * x + edge, 0, side + 1)
    top, left = (np.minimum(v.astype(np.int32), side) for v in (rows, columns))
    down, right = rows - top, columns - left
    framed, which = np.pad(shapes, ((0, 0), (1, 1), (1, 1))), np.arange(count)[:, None, None]
    upper = (1 - right) * framed[which, top, left] + right * framed[which, top, left + 1]
    lower = (1 - right) * framed[which, top + 1, left] + right * framed[which, top + 1, left + 1]
    return (1 - down) * upper + down * lower
