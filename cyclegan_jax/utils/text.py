"""Text for UTF-8 streams and pages."""

import os
import re


def printable(text: str | os.PathLike[str]) -> str:
    """Return text, or a path as text, with U+FFFD for what UTF-8 cannot encode.

    Python represents the bytes of file names that are not UTF-8 as lone surrogates.
    """
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", os.fspath(text))
