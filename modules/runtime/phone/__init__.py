"""Phones that adb reaches, where TFLite's own benchmark program times files."""
