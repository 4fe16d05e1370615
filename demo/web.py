#!/usr/bin/env python
"""The command ``mask_former web``, by its path in a checkout."""

import sys

from mask_former.__main__ import command

if __name__ == "__main__":
    sys.exit(command("web").main())
