"""The one family of errors that users see: what happened, where, what to do."""


class LocalLLMError(Exception):
    """A failure that the user can act on: one line, no traceback, exit code 1.

    Args:
        message: what happened and where (names the file, the field or the flag).
        hint: what to do about it; empty where the message already says so.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(LocalLLMError):
    """The command or the request itself is wrong: exit code 2."""

    exit_code = 2


class ModelFileError(LocalLLMError):
    """A model file is damaged, hostile or of a kind that cannot be run."""


class ContextFullError(LocalLLMError):
    """A prompt does not fit the context; the message gives both numbers in tokens."""
