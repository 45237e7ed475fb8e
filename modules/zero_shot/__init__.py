"""Zero-shot NAS: networks scored without training."""
