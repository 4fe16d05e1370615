#!/usr/bin/env python
"""The command ``mask_former export``, by its path in a checkout."""

import sys

from mask_former.__main__ import command

if __name__ == "__main__":
    sys.exit(command("export").main())
