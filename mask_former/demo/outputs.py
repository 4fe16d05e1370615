"""Where the demo writes: the files of each input, and what is refused before the model runs."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..d2.errors import InputError
from ..d2.visualization.saving import SUFFIXES

Targets = dict[str, Path]
"""The file of each kind of result of one input."""


def name_targets(
    sources: Sequence[str], output: str, kinds: Sequence[str] = ("overlay",)
) -> list[Targets]:
    """Files for each source, in the folder ``output`` or, of a single one, that file's name."""
    if is_folder(output):
        overlays = [Path(output, os.path.basename(source)) for source in sources]
    elif len(sources) == 1:
        overlays = [Path(output)]
    else:
        raise InputError(
            f"--output {output} is one file, but --input names {len(sources)} pictures; give a "
            "folder"
        )
    targets = [
        {kind: path.with_suffix(SUFFIXES.get(kind, path.suffix)) for kind in kinds}
        for path in overlays
    ]
    paths = [path for target in targets for path in target.values()]
    check_targets(sources, paths)
    for path in paths:
        make_folder(path.parent)
    return targets


def is_folder(output: str) -> bool:
    """Whether ``--output`` is a folder, or is to become one."""
    return os.path.isdir(output) or not Path(output).suffix or output.endswith(os.sep)


def check_targets(sources: Sequence[str], targets: Sequence[Path]) -> None:
    """Refuses to write over an input, or two results into one file."""
    name, count = Counter(targets).most_common(1)[0]
    if count > 1:
        raise InputError(f"{count} results would be written to {name}; run them one after another")
    inputs = {os.path.realpath(source) for source in sources}
    for target in targets:
        if os.path.realpath(target) in inputs:
            raise InputError(f"--output would write over the input {target}; name another folder")


def make_folder(folder: Path) -> None:
    """Makes a folder with its parents, if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output: cannot make the folder {folder}: {error.strerror}") from error
