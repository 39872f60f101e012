"""The exception for a user's mistakes; programs print its message and exit with 1."""


class UserError(Exception):
    """A wrong configuration, path, image or checkpoint.

    The message is one line: "THING: expected X, got Y", with the choices or the fix.
    """
