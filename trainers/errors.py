"""The one error type that ends a run with a single line instead of a traceback."""


class UserError(Exception):
    """A mistake that the user can fix; its text is one line that says how.

    A line break in the text, as a received value may bring it in, becomes a backslash and an n.
    """

    def __init__(self, message: str) -> None:
        super().__init__(r"\n".join(message.splitlines()))
