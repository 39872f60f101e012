"""Configurations, one module each, with a function `get_config`."""
