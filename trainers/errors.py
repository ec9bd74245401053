"""The one error type that ends a run with a single line instead of a traceback."""


class UserError(Exception):
    """A mistake that the user can fix; its text is one line that says how."""
