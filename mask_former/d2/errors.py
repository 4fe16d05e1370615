"""The error for input that a user can mend: files, label ids, configurations."""


class InputError(ValueError):
    """Bad input. The message names the file, the value found, the values allowed and the remedy."""

    @classmethod
    def sentence(cls, error: BaseException) -> str:
        """The message alone, also when a loader worker has wrapped it in its own traceback."""
        return str(error).rsplit(f"{cls.__name__}: ", 1)[-1].strip()
