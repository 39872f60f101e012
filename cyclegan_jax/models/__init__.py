"""Generators, discriminators and their layers.

`protocol.py` says what training and inference expect of a network; `generators.GENERATORS` and
`discriminators.DISCRIMINATORS` are the registries.
"""
