"""Data sets from an installed library, without path or download."""
from modules.datasets.embedded.digits import open_digits
from modules.datasets.embedded.drawn_digits import open_cluttered_digits, open_moved_digits

EMBEDDED = {"digits": open_digits, "moved_digits": open_moved_digits, "cluttered_digits": open_cluttered_digits}
