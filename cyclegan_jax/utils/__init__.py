"""Image files and values, atomic writes, registries, errors and command lines."""
