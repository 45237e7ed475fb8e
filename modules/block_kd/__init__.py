"""Block distillation: students, block tables (LUT) and the search of the space."""
