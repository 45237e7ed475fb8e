"""Whatever runs a model file: sessions of the engines, devices here and elsewhere, timers."""
