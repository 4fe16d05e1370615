"""The command ``mask_former``, its list, and the doors of a checkout."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mask_former import __version__
from mask_former.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[1]
DOORS = [
    path
    for pattern in ("train_net.py", "demo/*.py", "tools/*.py", "datasets/*.py")
    for path in ROOT.glob(pattern)
    if "from mask_former.__main__ import command" in path.read_text()
]


def without_packages(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What Python says that has the standard library and this package alone."""
    command = [sys.executable, "-S", *arguments]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_the_list_needs_no_package():
    done = without_packages("-m", "mask_former", "--help")
    assert done.returncode == 0, done.stderr
    listed = re.findall(r"^  (\S+) +\S", done.stdout.partition("commands, of")[2], re.MULTILINE)
    assert listed == list(COMMANDS)
    assert all(len(line) <= 100 for line in done.stdout.splitlines())
    assert without_packages("-m", "mask_former", "--version").stdout.split()[1] == __version__


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["trian"], "there is no 'trian'; did you mean train?"),
        (["xyz"], "there is no 'xyz'; --help lists all"),
        ([], "required: COMMAND"),
    ],
)
def test_no_such_command(arguments, told, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert told in capsys.readouterr().err


def test_without_detectron2_it_is_one_sentence():
    done = without_packages("-m", "mask_former", "export")
    assert done.returncode == 1
    assert done.stderr.startswith("error: mask_former needs Detectron2 0.6 or newer; none is inst")
    assert len(done.stderr.splitlines()) == 1


def test_detectron2_can_be_installed_where_nothing_else_is():
    done = without_packages("-m", "mask_former", "install-detectron2", "--help")
    assert done.returncode == 0, done.stderr
    assert "mask_former install-detectron2 [-h]" in done.stdout


def test_all_modules_are_commands():
    modules = {path.stem for path in (ROOT / "mask_former" / "commands").glob("[!_]*.py")}
    assert modules == {module for module, _ in COMMANDS.values()}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_takes_its_arguments(name):
    source = (ROOT / "mask_former" / "commands" / f"{COMMANDS[name][0]}.py").read_text()
    functions = {f.name: f for f in ast.parse(source).body if isinstance(f, ast.FunctionDef)}
    (argument,), (default,) = functions["main"].args.args, functions["main"].args.defaults
    assert argument.arg == "argv"
    assert ast.unparse(default) == "None"


@pytest.mark.parametrize("path", DOORS, ids=lambda path: path.name)
def test_a_door_leads_to_the_command_of_its_name(path):
    (name,) = re.findall(r'command\("(\S+)"\)', path.read_text())
    assert COMMANDS[name][0] == {"train_net": "train"}.get(path.stem, path.stem)


def test_every_command_but_ours_alone_has_a_door():
    behind = {re.findall(r'command\("(\S+)"\)', path.read_text())[0] for path in DOORS}
    assert set(COMMANDS) - behind == {"configs", "install-detectron2"}


def test_usages_name_the_command_as_it_was_called(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/mask_former", "plot", "--help"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert capsys.readouterr().out.startswith("usage: mask_former plot [-h]")
    assert sys.argv == ["/bin/mask_former plot", "--help"]
    with pytest.raises(SystemExit, match="0"):
        main(["plot", "--help"])
    assert sys.argv == [f"{sys.executable} -m mask_former plot", "--help"]


def test_the_originals_names_stand_at_its_paths(monkeypatch):
    import train_net
    from mask_former.commands import train
    from mask_former.demo.predictor import VisualizationDemo

    monkeypatch.syspath_prepend(str(ROOT / "demo"))
    import predictor

    assert predictor.VisualizationDemo is VisualizationDemo
    assert (train_net.Trainer, train_net.setup) == (train.Trainer, train.setup)
    assert train_net.main is train.train_or_evaluate


def test_the_configurations_are_listed(capsys):
    assert main(["configs"]) is None
    first, *names = capsys.readouterr().out.splitlines()
    assert first == f"in {ROOT / 'configs'}:"
    assert "ade20k-150/maskformer_R50_bs16_160k" in names
    assert len(names) == len(list(ROOT.glob("configs/**/*.yaml")))


def test_control_c_is_no_traceback(monkeypatch, capsys):
    module = importlib.import_module("mask_former.commands.configs")

    def stopped(argv: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "main", stopped)
    assert main(["configs"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("command", "line", "name", "values"),
    [
        ("predict", "w i o --format label --format coco", "format", ["label", "coco"]),
        ("demo", "--input a --input b --output o", "input", ["a", "b"]),
        ("demo", "--input a --output o --save label --save json", "save", ["label", "json"]),
        ("demo", "--input a --output o", "save", ["overlay"]),
        (
            "analyze_model",
            "--config-file a --tasks flop --tasks parameter",
            "tasks",
            ["flop", "parameter"],
        ),
        (
            "export",
            "w o.onnx --format onnx --pictures a --pictures b",
            "pictures",
            ["a", "b"],
        ),
    ],
)
def test_no_value_of_an_option_that_is_given_twice_is_lost(command, line, name, values):
    module = importlib.import_module(f"mask_former.commands.{command}")
    assert getattr(module.parse_args(line.split()), name) == values
