"""A user's own code, imported by module or file."""

import argparse
import sys
from pathlib import Path

import pytest

from mask_former.d2.command_line.importing import add_import_argument, import_code
from mask_former.d2.errors import InputError


@pytest.fixture(autouse=True)
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts in an empty folder; afterwards, nothing is imported and the path is as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


def write(name: str, text: str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


def test_the_argument_is_repeatable():
    parser = argparse.ArgumentParser()
    add_import_argument(parser)
    assert parser.parse_args([]).imports == []
    assert parser.parse_args(["--import", "a", "--import", "b.py"]).imports == ["a", "b.py"]


def test_files_run_once_and_find_their_neighbours():
    write("code/neighbour.py", "seen = []")
    file = write("code/mine.py", "import neighbour; neighbour.seen.append(__name__)")
    import_code([file, str(Path(file).resolve())])
    assert sys.modules["neighbour"].seen == [str(Path(file).resolve())]


def test_modules_by_name(monkeypatch):
    write("package/__init__.py", "")
    write("package/mine.py", "value = 3")
    monkeypatch.syspath_prepend(".")
    import_code(["package.mine"])
    assert sys.modules["package.mine"].value == 3


def test_a_file_has_the_name_of_no_module():
    json = sys.modules["json"]
    import_code([write("json.py", "value = 3")])
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.py", None, "there is no file .*none.py; mend the path"),
        ("no_such_module", None, "there is no module no_such_module; give its name"),
        ("no.such.module", None, "there is no module no; give its name"),
        ("os.such", None, "there is no module os.such"),
        ("a.py", "import no_such_module", "a.py cannot be imported .*no_such_module"),
        ("b.py", "from json import nothing", "b.py cannot be imported .*nothing"),
        ("c.py", "def f(:", "c.py cannot be imported .*line 1"),
        ("d.py", "assert False, 'Dataset x is already registered!'", "x is already registered"),
        ("e.py", "assert False", "e.py cannot be imported .AssertionError"),
        ("./mine", None, "there is no file .*mine; mend the path"),
    ],
)
def test_what_cannot_be_imported(name, text, message):
    if text is not None:
        write(name, text)
    for _ in range(2):  # what has failed is not taken for imported
        with pytest.raises(InputError, match=message) as caught:
            import_code([name])
        assert "\n" not in str(caught.value)


def test_a_file_that_was_meant():
    write("user/mine.py", "")
    with pytest.raises(InputError, match=r"no module user; did you mean the file user/mine\.py"):
        import_code(["user.mine"])
    with pytest.raises(InputError, match=r"and user is no file that ends in \.py"):
        import_code(["user"])
