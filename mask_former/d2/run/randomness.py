"""Random numbers that depend on the seed and on what is drawn, on nothing that was drawn before."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def set_deterministic(wanted: bool) -> None:
    """Whether torch takes algorithms alone that give the same bits each time; else the fastest.

    Args:
        wanted: an operation without such an algorithm then ends the run.
    """
    if wanted:  # cuBLAS reads it when a process first multiplies
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(wanted)


def reseed(*key: int) -> None:
    """Seeds the generators of Python, NumPy and torch, that of the CUDA devices included.

    Args:
        key: whole numbers of 0 or more; other numbers give independent draws.
    """
    seed = _reseed_cpu(key)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


@contextmanager
def reseeded(*key: int) -> Iterator[None]:
    """The generators of the CPU seeded as by :func:`reseed`; afterwards they are as before."""
    states = _cpu_states()
    try:
        _reseed_cpu(key)
        yield
    finally:
        _set_cpu_states(states)


def random_states() -> tuple[Any, ...]:
    """The states of all generators: the CPU's and, where it is in use, this process's GPU's."""
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return *_cpu_states(), gpu


def set_random_states(states: tuple[Any, ...]) -> None:
    """Has all generators draw again what they drew after :func:`random_states`."""
    _set_cpu_states(states)
    if states[3] is not None:
        torch.cuda.set_rng_state(states[3])


def _cpu_states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _set_cpu_states(states: tuple[Any, ...]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def _reseed_cpu(key: tuple[int, ...]) -> int:
    words = np.random.SeedSequence(key).generate_state(8)
    random.seed(words[:2].tobytes())
    np.random.seed(words[2:6])
    seed = int.from_bytes(words[6:].tobytes()[:7], "little")
    torch.default_generator.manual_seed(seed)
    return seed
