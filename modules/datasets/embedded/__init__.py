"""Data sets from an installed library, without path or download."""
from modules.datasets.embedded.cluttered_digits import open_cluttered_digits
from modules.datasets.embedded.digits import open_digits

EMBEDDED = {"digits": open_digits, "cluttered_digits": open_cluttered_digits}
