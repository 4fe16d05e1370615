"""The command ``mask_former shapes``, by its path in a checkout."""

import sys

from mask_former.__main__ import command

if __name__ == "__main__":
    sys.exit(command("shapes").main())
