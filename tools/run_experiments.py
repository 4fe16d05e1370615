#!/usr/bin/env python
"""Trains what a table of docs/EXPERIMENTS.md compares, and prints the table.

A YAML file of docs/experiments/ names rows, settings, seeds and columns. Every row is trained by
train_net.py once for each seed, into a folder of its own below OUTPUT. What is finished there is
read and not trained again, and what was interrupted goes on: so the command may be repeated, and
prints the table of what there is.
"""

import argparse
import fcntl
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, TextIO

# Before other packages: it says in one sentence what is missing.
try:
    import mask_former.d2  # noqa: F401  # isort: skip
except ImportError as error:
    sys.exit(f"error: {error}")
from tabulate import tabulate

from mask_former.d2.configuring.yaml_reading import read_yaml
from mask_former.d2.errors import InputError
from mask_former.d2.run.files import json_lines

ROOT = Path(__file__).resolve().parent.parent
PARTS = {"config": str, "seeds": list, "settings": dict, "rows": dict, "columns": dict}
OURS = ("SEED", "OUTPUT_DIR")
"""Keys of a configuration that tell the runs apart."""


@dataclass(frozen=True)
class Run:
    """One training: a row of the table with one seed."""

    name: str
    folder: Path
    config: str
    options: list[str]

    def results(self) -> dict[str, float]:
        """By metric, of the evaluation after the last iteration; empty where there was none yet.

        Raises:
            InputError: the folder is that of other settings.
        """
        if self._record.is_file() and self._record.read_text(encoding="utf-8") != self._settings:
            raise InputError(
                f"{self.folder} was trained with other settings, {self._record} says which; take "
                "it away, or name another folder"
            )
        metrics = self.folder / "metrics.json"
        if not (metrics.is_file() and (self.folder / "model_final.pth").is_file()):
            return {}
        lines = json_lines(metrics)
        # The weights are saved before the last evaluation, which is the last to write a line.
        if not (lines and any("/" in metric for metric in lines[-1])):
            return {}
        return {metric: value for line in lines for metric, value in line.items()}

    def train(self) -> None:
        """From the start, or from where it was interrupted.

        Raises:
            InputError: it fails, or is already being trained.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "terminal.txt", "a", encoding="utf-8") as log:
            try:
                # The training inherits it, also from a command that is killed.
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"{self.name} is being trained in {self.folder} already, perhaps since a "
                    "command that was killed; wait until it has ended"
                ) from error
            self._record.write_text(self._settings, encoding="utf-8")
            begun = ["--resume"] if (self.folder / "last_checkpoint").is_file() else []
            config = ["--config-file", str(ROOT / self.config)]
            command = [sys.executable, str(ROOT / "train_net.py"), *config, *begun]
            code = run_to_end([*command, "OUTPUT_DIR", str(self.folder), *self.options], log)
        if code != 0:
            raise InputError(
                f"{self.name} ended with exit code {code}; {log.name} says why, and the same "
                "command goes on from there"
            )

    @property
    def _record(self) -> Path:
        return self.folder / "settings.txt"

    @property
    def _settings(self) -> str:
        return shlex.join([self.config, *self.options]) + "\n"


def run_to_end(command: Sequence[str], log: TextIO) -> int:
    """The exit code of a training, which after Ctrl-C and TERM has the time to save."""
    with subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as training:
        former = signal.signal(signal.SIGTERM, lambda number, _: training.send_signal(number))
        try:
            return training.wait()
        except KeyboardInterrupt:  # which the terminal has sent to the training as well
            return training.wait()
        finally:
            signal.signal(signal.SIGTERM, former)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("table", help="YAML file, of docs/experiments/ for example")
    parser.add_argument("output", type=Path, help="folder to write, one below it for each run")
    parser.add_argument(
        "--seed", type=int, action="append", help="instead of those of the file; may be repeated"
    )
    parser.add_argument(
        "--rows",
        type=_pattern,
        default="",
        metavar="PATTERN",
        help="regular expression: only rows in whose name it is",
    )
    parser.add_argument("--print", action="store_true", help="train nothing, print what there is")
    parser.add_argument(
        "opts",
        nargs="*",
        metavar="KEY VALUE",
        help="changes to the configuration of every run",
    )
    return parser.parse_intermixed_args(argv)


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression ({error})") from error


def main(argv: Sequence[str] | None = None) -> None:
    """Trains seed after seed, so that a table of fewer seeds is there first."""
    args = parse_args(argv)
    table = read_table(args.table)
    seeds = list(dict.fromkeys(args.seed or table["seeds"]))
    rows = {name: row for name, row in table["rows"].items() if args.rows.search(name)}
    if not rows:
        names = ", ".join(table["rows"])
        raise InputError(f"--rows {args.rows.pattern} is in no row of {args.table}: {names}")
    runs = {(name, seed): make_run(args, table, name, seed) for seed in seeds for name in rows}
    for run in runs.values():
        if not args.print and not run.results():
            print(f"{run.name}, in {run.folder}", flush=True)
            run.train()
    results = {key: run.results() for key, run in runs.items()}
    print(format_table(rows, table["columns"], seeds, results))


def read_table(path: str) -> dict[str, Any]:
    """The parts of a file, each there and of its kind.

    Raises:
        InputError: one is missing, unknown or of another kind, or two rows are not told apart.
    """
    table = read_yaml(path, "table of experiments").content
    for part, kind in PARTS.items():
        if not isinstance(table.get(part), kind):
            raise InputError(f"{path} needs the part {part}, a {kind.__name__}")
    if unknown := table.keys() - PARTS:
        raise InputError(
            f"{path} has the unknown parts {sorted(unknown)}; known: {', '.join(PARTS)}"
        )
    for row, settings in table["rows"].items():
        if not isinstance(settings, dict):
            raise InputError(f"{path}: the row {row} is {settings!r}; give its settings, or {{}}")
    wrong = [seed for seed in table["seeds"] if type(seed) is not int or seed < 0]
    if wrong or not table["seeds"]:
        raise InputError(f"{path}: seeds are {table['seeds']}; give whole numbers from 0 on")
    if len({folder_of(name) for name in table["rows"]}) < len(table["rows"]):
        raise InputError(f"two rows of {path} would have one folder; give them other names")
    return table


def make_run(args: argparse.Namespace, table: dict[str, Any], name: str, seed: int) -> Run:
    """The training of a row with a seed; what the row says counts before the settings of all.

    Raises:
        InputError: the settings say where it is written, or which seed it has.
    """
    settings = {**table["settings"], **table["rows"][name]}
    if taken := [key for key in OURS if key in (*settings, *args.opts[::2])]:
        raise InputError(
            f"{name}: {taken[0]} is set for each run; name seeds (--seed) and OUTPUT instead"
        )
    settings = {"SEED": seed, **settings}
    options = [str(part) for setting in settings.items() for part in setting]
    folder = args.output.resolve() / folder_of(name) / f"seed{seed}"
    return Run(f"{name}, seed {seed}", folder, table["config"], [*options, *args.opts])


def folder_of(name: str) -> str:
    """A row's name without what a path cannot have or a shell would take apart."""
    return re.sub(r"[^\w+.-]+", "_", name)


def format_table(
    rows: Sequence[str] | dict[str, Any],
    columns: dict[str, str],
    seeds: Sequence[int],
    results: dict[tuple[str, int], dict[str, float]],
) -> str:
    """In Markdown: the mean over the finished seeds and, of two and more, their range.

    Raises:
        InputError: a finished run has no such metric.
    """
    lines = []
    for name in rows:
        finished = [found for seed in seeds if (found := results[name, seed])]
        cells = []
        for metric in columns.values():
            if missing := [found for found in finished if metric not in found]:
                raise InputError(
                    f"{name} has no metric {metric}; it has {', '.join(sorted(missing[0]))}"
                )
            cells.append(_cell([found[metric] for found in finished]))
        lines.append([name, *cells, len(finished)])
    return tabulate(
        lines, headers=["", *columns, "seeds"], tablefmt="github", disable_numparse=True
    )


def _cell(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "".join(f"{value:.1f}" for value in values)
    return f"{mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
