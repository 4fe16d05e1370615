"""Tries every input and prints a table of outcomes; ends with 1 if any is not as it should be."""

import logging
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tabulate import tabulate

from tests.bad_inputs import commands, values, weights_files, yaml_files
from tests.bad_inputs.case import OUTCOMES, RIGHT, SENTENCE, made_up_data, try_case


def main() -> None:
    """All kinds, in this process."""
    logging.disable(logging.CRITICAL)
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts: dict[str, Counter[str]] = {}
    slowest = (0.0, "")
    with tempfile.TemporaryDirectory() as name, made_up_data(Path(name)):
        for kind in (values, yaml_files, weights_files, commands):
            for case in kind.cases(Path(name, "bad")):
                began = time.perf_counter()
                result = try_case(case)
                slowest = max(slowest, (time.perf_counter() - began, case.name))
                counts.setdefault(case.kind, Counter())[result.outcome] += 1
                if result.outcome not in (SENTENCE, RIGHT) or "-v" in sys.argv:
                    print(f"{result.outcome}: {case.kind}: {case.name}: {result.said}")
    total = sum(counts.values(), Counter())
    rows = [[kind, *(c[o] for o in OUTCOMES), c.total()] for kind, c in counts.items()]
    rows.append(["all", *(total[o] for o in OUTCOMES), total.total()])
    print(tabulate(rows, ["", *OUTCOMES, "tried"], tablefmt="pipe"))
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"{time.perf_counter() - start:.0f} s; slowest {slowest[1]}, {slowest[0]:.1f} s; memory "
        f"grew by {memory:.0f} MiB"
    )
    sys.exit(total.total() != total[SENTENCE] + total[RIGHT])


if __name__ == "__main__":
    main()
