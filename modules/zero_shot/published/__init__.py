"""The programs of Zen-NAS under their published names: flags, training, validation, weights."""
