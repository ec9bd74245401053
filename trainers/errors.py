"""The error types that end a run with a single line instead of a traceback."""


class UserError(Exception):
    """A mistake that the user can fix; its text is one line that says how.

    A line break in the text, as a received value may bring it in, becomes a backslash and an n.
    """

    def __init__(self, message: str) -> None:
        super().__init__(r"\n".join(message.splitlines()))


class RunError(UserError):
    """A run that failed because of its surroundings, such as a full disk; likewise one line."""
