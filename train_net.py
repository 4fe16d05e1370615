#!/usr/bin/env python
"""The command ``mask_former train``, by the path and with the names that the original has."""

import sys

from mask_former.__main__ import command

_train = command("train")
Trainer = _train.Trainer
setup = _train.setup
main = _train.train_or_evaluate

if __name__ == "__main__":
    sys.exit(_train.main())
