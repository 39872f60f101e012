"""A trained generator applied to images of any size."""
