"""Metrics of translations, computed from the images as they are saved."""
