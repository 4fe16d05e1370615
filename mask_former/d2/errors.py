"""The error for input that a user can mend: files, label ids, configurations."""

import difflib
from collections.abc import Collection


class InputError(ValueError):
    """Bad input. The message names the file, the value found, the values allowed and the remedy."""

    @classmethod
    def sentence(cls, error: BaseException) -> str:
        """The message alone, also when a loader worker has wrapped it in its own traceback."""
        return str(error).rsplit(f"{cls.__name__}: ", 1)[-1].strip()


def did_you_mean(name: str, known: Collection[str]) -> str:
    """The end of a sentence about a name that is not known: those like it, or nothing.

    Args:
        name: may have dots, as a key of a configuration.
        known: the names to choose from.

    Returns:
        "; did you mean A or B?", or "" if none is like it.
    """
    leaf = name.rpartition(".")[2]
    # A right name in the wrong section is likelier than a wrong name.
    close = [k for k in known if k.rpartition(".")[2] == leaf and k != name][:3]
    folded = {k.casefold(): k for k in known}
    close += [folded[k] for k in difflib.get_close_matches(name.casefold(), folded, 2, 0.8)]
    return f"; did you mean {' or '.join(dict.fromkeys(close))}?" if close else ""
