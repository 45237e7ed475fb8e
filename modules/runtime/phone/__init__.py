"""Phones behind adb: TFLite's own benchmark program times files there."""
