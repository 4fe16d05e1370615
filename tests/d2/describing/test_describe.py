"""From a folder to a trained model: the files that are written, and a run on them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mask_former.commands import train
from mask_former.d2.config import load_config
from mask_former.d2.describing.describe import Described, Request, describe
from mask_former.d2.errors import InputError
from tests.small_runs import CONFIG, TINY, flat


@pytest.fixture
def streets(images: Path, tmp_path: Path) -> Path:
    """The six made-up pictures of CamVid's layout, under another name."""
    return Path(shutil.copytree(images.parents[1], tmp_path / "streets"))


def described(folder: Path, output: Path, **options: object) -> Described:
    request = Request(str(folder), str(output), from_scratch=True, ignore=[11], workers=1)
    return describe(request._replace(**options))


def test_files(streets, tmp_path):
    output = tmp_path / "out"

    found = described(streets, output)

    assert found.config == str(output / "config.yaml")
    content = yaml.safe_load((output / "config.yaml").read_text())
    assert content["DATASETS"]["DESCRIPTIONS"] == ["dataset.yaml"]
    assert content["MODEL"]["SEM_SEG_HEAD"]["NUM_CLASSES"] == 11
    assert Path(found.report).read_text().startswith("<!DOCTYPE html>")
    assert yaml.safe_load((output / "dataset.yaml").read_text())["ignore"] == [11]


def test_what_was_written_before_is_kept(streets, tmp_path):
    output = tmp_path / "out"
    first = described(streets, output)
    text = Path(first.description).read_text().replace("class_0", "sky")
    Path(first.description).write_text(text)
    Path(str(first.config)).write_text("SEED: 5\n")

    again = described(streets, output)

    assert again.survey.description.classes[0].name == "sky"
    assert Path(str(again.config)).read_text() == "SEED: 5\n"
    assert any("describes the data already" in note for note in again.notes)
    assert any("is kept as it is" in note for note in again.notes)


def test_a_description_of_other_data_is_not_taken_for_these(streets, tmp_path):
    described(streets, tmp_path / "out")
    other = shutil.copytree(streets, tmp_path / "other")

    with pytest.raises(InputError, match=r"dataset.yaml describes .*/streets, not .*/other; take"):
        described(other, tmp_path / "out")

    (tmp_path / "link").symlink_to(streets)
    assert described(tmp_path / "link", tmp_path / "out").config is not None


def test_a_description_that_lies_with_the_data(streets, tmp_path):
    described(streets, tmp_path / "out")
    shutil.copy(tmp_path / "out" / "dataset.yaml", streets)

    found = described(streets, tmp_path / "other")

    assert found.description == str(streets / "dataset.yaml")
    content = yaml.safe_load((tmp_path / "other" / "config.yaml").read_text())
    assert content["DATASETS"]["DESCRIPTIONS"] == ["../streets/dataset.yaml"]


def test_a_yaml_of_yolo_is_no_description(folder, output, write):
    write("images/train/a.jpg", "images/val/b.jpg")
    names = "names: {0: car}\ntrain: images/train\nval: images/val\n"
    (folder / "dataset.yaml").write_text(names)
    for file in ("train/a.txt", "val/b.txt"):
        (folder / "labels" / file).parent.mkdir(parents=True)
        (folder / "labels" / file).write_text("0 0 0 0.5 0 0.5 1 0 1\n")

    found = described(folder, output, ignore=[])

    assert found.description == str(output / "dataset.yaml")
    assert found.survey.description.task == "instance"
    assert any("dataset.yaml has no splits, so it is another program's" in n for n in found.notes)
    assert (folder / "dataset.yaml").read_text() == names


def test_errors_leave_no_configuration(streets, tmp_path):
    (streets / "images/train/0.jpg").write_bytes(b"torn")

    found = described(streets, tmp_path / "out")

    assert found.config is None
    assert not (tmp_path / "out" / "config.yaml").exists()
    assert found.survey.has_errors


def test_a_description_that_is_refused_does_not_stay(streets, tmp_path):
    """Else it would hold when the names are mended."""
    (streets / "classes.txt").write_text("sky\nsky\n")
    with pytest.raises(InputError, match=r"^\S*/streets: the name sky stands more than once"):
        described(streets, tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.yaml").exists()
    (streets / "classes.txt").write_text("sky\nroad\n")
    assert described(streets, tmp_path / "out").config is not None


def test_weights_that_cannot_be_had(streets, tmp_path):
    opts = ["MODEL.WEIGHTS", str(tmp_path / "nowhere.pkl")]
    found = described(streets, tmp_path / "out", from_scratch=False, opts=opts)
    (note,) = [note for note in found.notes if "weights" in note]
    assert "nowhere.pkl" in note
    assert "--from-scratch" in note
    assert found.config is not None


def test_a_bad_base(streets, tmp_path):
    with pytest.raises(InputError, match=r"cannot read the configuration .*nowhere.yaml"):
        described(streets, tmp_path / "out", base=str(tmp_path / "nowhere.yaml"))


def run(folder: Path, *flags: str, **options: object) -> list[dict]:
    options = {key.replace("__", "."): value for key, value in options.items()}
    opts = {**TINY, "OUTPUT_DIR": folder, "TEST.EVAL_PERIOD": 0, **options}
    args = train.argument_parser().parse_args(["--config-file", str(CONFIG), *flags, *flat(opts)])
    if args.data is not None:
        train.use_data(args)
    train.train_or_evaluate(args)
    lines = (folder / "metrics.json").read_text().splitlines()
    timing = ("time", "eta", "data_time", "rank_data_time")
    return [{k: v for k, v in json.loads(x).items() if not k.endswith(timing)} for x in lines]


def test_a_run_on_described_data_is_that_on_the_built_in_set(streets, tmp_path, capsys):
    built_in = run(tmp_path / "one")

    own = run(
        tmp_path / "two",
        *("--data", str(streets), "--ignore", "11", "--from-scratch"),
    )

    names = [f"class_{i}" for i in range(11)]
    known = yaml.safe_load((tmp_path / "one" / "config.yaml").read_text())
    assert known["DATASETS"]["TRAIN"] == ["camvid_sem_seg_train"]
    assert "streets: semantic, 11 classes" in capsys.readouterr().out
    assert len(own) == len(built_in) > 0
    for ours, theirs in zip(own, built_in, strict=True):
        per_class = [k for k in ours if any(k.endswith(f"-{name}") for name in names)]
        assert per_class or "sem_seg/mIoU" not in ours
        same = {k: v for k, v in ours.items() if k not in per_class}
        assert same == {k: v for k, v in theirs.items() if k in same}


def test_weights_of_a_run_bring_their_configuration(images, streets, tmp_path):
    run(tmp_path / "one", SOLVER__MAX_ITER=1)
    weights = str(tmp_path / "one" / "model_final.pth")
    opts = ["MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(tmp_path / "two"), "SOLVER.MAX_ITER", "1"]
    arguments = ["--data", str(streets), "--ignore", "11", *opts]
    args = train.argument_parser().parse_args(arguments)

    train.use_data(args)
    cfg = load_config(args.config_file, args.opts, "cpu")

    assert TINY["MODEL.BACKBONE.NAME"] == cfg.MODEL.BACKBONE.NAME
    assert cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES == 12
    assert list(cfg.DATASETS.TRAIN) == ["streets_train"]
    assert cfg.SOLVER.BASE_LR == load_config(str(CONFIG), [], "cpu").SOLVER.BASE_LR


def test_training_does_not_start_on_errors(streets, tmp_path):
    (streets / "annotations/train/0.png").unlink()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(streets / "annotations/train/0.png")
    with pytest.raises(SystemExit, match=r"the data have errors, see .*report.html; nothing is tr"):
        run(tmp_path / "out", "--data", str(streets), "--ignore", "11", "--from-scratch")
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_dry_run(images, tmp_path, capsys):
    opts = flat({**TINY, "OUTPUT_DIR": tmp_path / "out", "SOLVER.MAX_ITER": 7200})
    arguments = ["--config-file", str(CONFIG), "--dry-run", *opts]
    train.train_or_evaluate(train.argument_parser().parse_args(arguments))

    told = capsys.readouterr().out

    assert "7,200 iterations" in told
    assert "11: sky, building, pole" in told
    seconds = float(told.split("a step")[1].split()[0])
    hours, minutes, rest = map(int, told.split("\ntime")[1].split()[0].split(":"))
    assert abs(hours * 3600 + minutes * 60 + rest - 7200 * seconds) <= 7200 * 0.005 + 1
    kept = {path.name.partition(".")[0] for path in (tmp_path / "out").iterdir()}
    assert kept <= {"log", "events"}  # nothing that a run would be taken up from
