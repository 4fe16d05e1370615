"""A training run beside its model: what it says, its files, signals, processes, order of data."""
