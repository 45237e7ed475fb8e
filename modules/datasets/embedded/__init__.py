"""Data sets from an installed library, without path or download."""
from modules.datasets.embedded.digits import open_digits
from modules.datasets.embedded.drawn_digits import open_cluttered_digits, open_moved_digits

EMBEDDED = {"digits": open_digits, "moved_digits": open_moved_digits, "cluttered_digits": open_cluttered_digits}
# Least part of the area that a training crop keeps. A small crop of an 8x8 image shows next to nothing of it; moved
# digits are scaled and off the centre as they are.
LEAST_CROP = {"digits": 0.7, "moved_digits": 1.0, "cluttered_digits": 1.0}
