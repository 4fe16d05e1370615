"""The published configurations by name: a wheel has them in the package, a checkout beside it."""

import difflib
import os
from pathlib import Path

from ..errors import InputError

_SUFFIX = ".yaml"


def configs_folder() -> Path:
    """The folder of the published configurations."""
    package = Path(__file__).resolve().parents[2]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def published_names() -> list[str]:
    """All of them, as ``ade20k-150/maskformer_R50_bs16_160k``, and those that they are based on."""
    folder = configs_folder()
    files = folder.rglob(f"*{_SUFFIX}")
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in files)


def find_config(name: str) -> str:
    """The file of a configuration.

    Args:
        name: a file, an address, or a published configuration's name, which may begin with
            ``configs/`` and end in ``.yaml``. A file of that name goes before it.

    Raises:
        InputError: there is neither; names the published ones that are like it.
    """
    if os.path.exists(name) or "://" in name or os.path.isabs(name):
        return name  # where it is no file, the one who reads it says so
    wanted = name.removeprefix("./").removeprefix("configs/").removesuffix(_SUFFIX)
    names = published_names()
    if wanted in names:
        return str(configs_folder() / f"{wanted}{_SUFFIX}")
    like = [known for known in names if known.rpartition("/")[2] == wanted.rpartition("/")[2]]
    like = like or difflib.get_close_matches(wanted, names, 3)
    meant = f"did you mean {' or '.join(like)}?" if like else "`mask_former configs` lists them"
    raise InputError(
        f"cannot read the configuration {name}: it does not exist, and no published one has that "
        f"name; give the path of a YAML file (--config-file); {meant}"
    )
