"""The one exception for mistakes in what the user gave: programs print its line and exit with 1."""


class UserError(Exception):
    """A wrong configuration, path, image or checkpoint.

    The message is one line that names the thing, what was expected and the choices there are.
    """
