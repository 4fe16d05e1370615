"""Keeps the C library from giving memory back to the system between steps, for scripts alone.

glibc takes each large buffer from the system and returns it as soon as it is freed. A training step
on a CPU frees gigabytes, so the next step meets as many new pages, which the kernel has to clear.
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # as glibc's malloc.h numbers them


def keep_freed_memory() -> None:
    """Lets this process reuse the buffers that it frees; without glibc nothing happens.

    It changes the whole process, which then holds its peak of memory until it ends: only a script
    may call it, when it starts.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)  # large buffers come from the heap, too
        mallopt(_TRIM_THRESHOLD, -1)  # and the heap never shrinks
