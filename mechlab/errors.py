"""The one error that bad input raises."""


class InputError(ValueError):
    """Bad input, said in one line: what is wrong, where, and what to do about it.

    The command line prints the line and exits with status 2.
    """
