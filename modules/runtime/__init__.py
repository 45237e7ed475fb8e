"""Engines that run model files: their sessions, local and remote devices, timers."""
