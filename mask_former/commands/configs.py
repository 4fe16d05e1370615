"""Lists the configurations that ``--config-file`` finds by name, wherever it is called."""

import argparse
from collections.abc import Sequence

from ..d2.configuring.published import configs_folder, published_names


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the names below the folder that holds the files."""
    argparse.ArgumentParser(
        description="List the configurations that --config-file finds by name."
    ).parse_args(argv)
    print(f"in {configs_folder()}:", *published_names(), sep="\n")
