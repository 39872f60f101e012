"""Convolution and normalisation, each in the form its backend runs fast."""
