"""Freed buffers are reused once a script has asked for it."""

import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from mask_former.d2.allocation import keep_freed_memory

CODE = """
import importlib.util, resource, sys
spec = importlib.util.spec_from_file_location("allocation", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
if sys.argv[2] == "keep":
    module.keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

first = bytearray(2**26)
del first
before = faults()
second = bytearray(2**26)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_a_freed_buffer_is_used_again() -> None:
    path = str(Path(__file__).parents[2] / "mask_former" / "d2" / "allocation.py")

    def new_pages(way: str) -> int:
        command = [sys.executable, "-c", CODE, path, way]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert new_pages("keep") < 100
    # As many as the buffer has, or fewer where the system gives huge pages.
    assert new_pages("leave") >= 2**26 / 2**21


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    keep_freed_memory()
