"""The command: training, evaluation and errors, on six made-up images and on CamVid."""

import os
import pickle
import re
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import default_argument_parser
from torch.multiprocessing.spawn import ProcessExitedException

from mask_former.commands import train
from mask_former.d2.errors import InputError
from mask_former.d2.trainer import Trainer
from tests.small_runs import CONFIG, QUICK, TINY, assert_accuracy, flat

ROOT = Path(__file__).parents[2]


def arguments(folder: Path, *flags: str, **changes: object) -> list[str]:
    """The command line; a key of ``changes`` has ``__`` for a dot."""
    opts = {**TINY, "SOLVER.MAX_ITER": 2, "OUTPUT_DIR": folder / "out"}
    opts.update({key.replace("__", "."): value for key, value in changes.items()})
    return ["--config-file", str(CONFIG), *flags, *flat(opts)]


def parse(folder: Path, *flags: str, **changes: object) -> Namespace:
    """As of Detectron2's parser, which lacks our arguments: other scripts may call ``main``."""
    return default_argument_parser().parse_args(arguments(folder, *flags, **changes))


def log_of(folder: Path) -> str:
    return (folder / "out" / "log.txt").read_text(encoding="utf-8")


@pytest.mark.usefixtures("images")
def test_trains_resumes_and_evaluates(tmp_path):
    train.train_or_evaluate(parse(tmp_path))
    train.train_or_evaluate(parse(tmp_path, "--resume", SOLVER__MAX_ITER=3))
    assert "Starting training from iteration 2" in log_of(tmp_path)
    checkpoint = str(tmp_path / "out" / "model_final.pth")
    assert torch.load(checkpoint)["trainer"]["iteration"] == 2
    of_last = train.train_or_evaluate(parse(tmp_path, "--eval-only", "--resume"))
    of_file = train.train_or_evaluate(parse(tmp_path, "--eval-only", MODEL__WEIGHTS=checkpoint))
    truth = (tmp_path / "camvid/annotations/val").iterdir()
    assert_accuracy(of_last["sem_seg"], tmp_path / "out/inference", truth)
    assert of_last["sem_seg"]["pACC"] == of_file["sem_seg"]["pACC"]


@pytest.mark.usefixtures("images")
def test_a_checkpoint_is_evaluated_alone_and_gives_its_classes(tmp_path):
    train.train_or_evaluate(parse(tmp_path))
    checkpoint = str(tmp_path / "out" / "model_final.pth")
    record = torch.load(checkpoint, weights_only=True)["mask_former"]
    names = [entry["name"] for entry in record["classes"]]
    assert names == MetadataCatalog.get("camvid_sem_seg_train").stuff_classes
    expected = train.train_or_evaluate(parse(tmp_path, "--eval-only", MODEL__WEIGHTS=checkpoint))
    other = {"MODEL.WEIGHTS": checkpoint, "OUTPUT_DIR": tmp_path / "other"}
    line = ["--eval-only", "--num-gpus", "0", *flat(other)]
    alone = train.train_or_evaluate(train.argument_parser().parse_args(line))
    np.testing.assert_equal(alone, expected)
    train.train_or_evaluate(
        parse(
            tmp_path,
            OUTPUT_DIR=tmp_path / "third",
            MODEL__WEIGHTS=checkpoint,
            MODEL__CLASSES_BY_NAME=True,
            SOLVER__MAX_ITER=0,
        )
    )
    told = (tmp_path / "third" / "log.txt").read_text(encoding="utf-8")
    assert re.search(rf"go over +11  {', '.join(names)}\nstart anew +0", told)


@pytest.mark.usefixtures("images")
def test_one_scale_of_test_time_augmentation_changes_nothing(tmp_path):
    aug = {"TEST__AUG__ENABLED": True, "TEST__AUG__MIN_SIZES": "(32,)", "TEST__AUG__FLIP": False}
    results = train.train_or_evaluate(parse(tmp_path, "--eval-only", **aug))
    assert "MODEL.WEIGHTS is empty: random weights are evaluated" in log_of(tmp_path)
    assert list(results) == ["sem_seg", "sem_seg_TTA"]
    np.testing.assert_equal(results["sem_seg_TTA"], results["sem_seg"])
    for folder, key in (("inference", "sem_seg"), ("inference_TTA", "sem_seg_TTA")):
        truth = (tmp_path / "camvid/annotations/val").iterdir()
        assert_accuracy(results[key], tmp_path / "out" / folder, truth)


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("twice", [True, False])
def test_test_time_augmentation(tmp_path, twice):
    aug = {"ENABLED": True, "MIN_SIZES": "(40, 64)", "FLIP": True, "RESIZE_TWICE": twice}
    keys = {f"TEST__AUG__{key}": value for key, value in aug.items()}
    results = train.train_or_evaluate(parse(tmp_path, "--eval-only", **keys))
    truth = (tmp_path / "camvid/annotations/val").iterdir()
    assert_accuracy(results["sem_seg_TTA"], tmp_path / "out/inference_TTA", truth)
    assert results["sem_seg_TTA"].keys() == results["sem_seg"].keys()


@pytest.mark.usefixtures("images")
def test_labels_evaluate_as_scores(tmp_path):
    """A label map instead of scores gives the same figures."""
    train.train_or_evaluate(parse(tmp_path))
    checkpoint = str(tmp_path / "out" / "model_final.pth")
    results = [
        train.train_or_evaluate(
            parse(
                tmp_path,
                "--eval-only",
                MODEL__WEIGHTS=checkpoint,
                MODEL__MASK_FORMER__TEST__SEM_SEG_OUTPUT=output,
            )
        )
        for output in ("scores", "labels")
    ]
    np.testing.assert_equal(results[0], results[1])


@pytest.mark.usefixtures("images")
def test_test_time_augmentation_of_labels(tmp_path):
    changes = {"TEST__AUG__ENABLED": True, "MODEL__MASK_FORMER__TEST__SEM_SEG_OUTPUT": "labels"}
    with pytest.raises(InputError, match=r"averages scores, which .*SEM_SEG_OUTPUT 'labels'"):
        train.train_or_evaluate(parse(tmp_path, "--eval-only", **changes))


@pytest.mark.usefixtures("images")
def test_test_time_augmentation_of_panoptic_sets(tmp_path):
    changes = {"TEST__AUG__ENABLED": True, "DATASETS__TEST": "('shapes_panoptic_val',)"}
    with pytest.raises(InputError, match=r"shapes_panoptic_val is evaluated as ade20k_panoptic"):
        train.train_or_evaluate(parse(tmp_path, "--eval-only", **changes))
    assert "Evaluating" not in log_of(tmp_path)


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("flags", [(), ("--eval-only",)])
def test_too_little_of_a_file_fits(tmp_path, flags):
    path = tmp_path / "w.pth"
    torch.save({"model": {"sem_seg_head.pixel_decoder.nothing": torch.ones(2)}}, path)
    args = train.argument_parser().parse_args(
        [*arguments(tmp_path, *flags, "--min-loaded", "0.9", MODEL__WEIGHTS=path)]
    )
    with pytest.raises(InputError, match=r"only 0 of the 1 weights .*--min-loaded 0\.9"):
        train.train_or_evaluate(args)
    args.min_loaded = 0
    train.train_or_evaluate(args)


class Trap:
    """Whose pickle creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.file),)


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("flags", [(), ("--eval-only",)])
@pytest.mark.parametrize("extension", ["pkl", "pth"])
def test_hostile_weights(tmp_path, flags, extension):
    path, trace = tmp_path / f"w.{extension}", tmp_path / "ran"
    content = {"model": {"a": torch.ones(1)}, "__author__": Trap(trace)}
    if extension == "pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match=rf"w\.{extension} names posix\.mkdir"):
        train.train_or_evaluate(parse(tmp_path, *flags, MODEL__WEIGHTS=path))
    assert not trace.exists()
    line = arguments(tmp_path, *flags, "--trust-weights", "--min-loaded", "0", MODEL__WEIGHTS=path)
    train.train_or_evaluate(train.argument_parser().parse_args(line))
    assert trace.exists()


@pytest.mark.usefixtures("images")
def test_expected_results_are_verified(tmp_path):
    expected = "[['sem_seg', 'mIoU', 300.0, 1.0]]"
    with pytest.raises(SystemExit):
        train.train_or_evaluate(parse(tmp_path, "--eval-only", TEST__EXPECTED_RESULTS=expected))


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("flags", [("--eval-only",), ("--resume",)])
def test_weights_of_other_classes(tmp_path, flags):
    other = {"criterion.empty_weight": torch.ones(20)}
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "model_0000007.pth"
    torch.save({"model": other}, path)
    (tmp_path / "out" / "last_checkpoint").write_text(path.name)
    with pytest.raises(InputError, match=r"model_0000007\.pth has 19 classes.*is 11"):
        train.train_or_evaluate(parse(tmp_path, *flags, MODEL__WEIGHTS=path))


@pytest.mark.parametrize("flags", [(), ("--num-gpus", "0")])
def test_without_cuda(tmp_path, flags):
    cfg = train.setup(parse(tmp_path, *flags, SOLVER__AMP__ENABLED=True))
    assert cfg.is_frozen()
    if torch.cuda.is_available() and not flags:
        assert cfg.MODEL.DEVICE == "cuda"
    else:
        assert cfg.MODEL.DEVICE == "cpu"
        assert not cfg.SOLVER.AMP.ENABLED


def test_deterministic_algorithms(tmp_path):
    for wanted in (True, False):
        train.setup(parse(tmp_path, SOLVER__DETERMINISTIC=wanted, CUDNN_BENCHMARK=True))
        assert torch.are_deterministic_algorithms_enabled() == wanted
        assert torch.backends.cudnn.benchmark != wanted


def test_without_a_configuration_file(tmp_path):
    opts = ["OUTPUT_DIR", str(tmp_path / "out")]
    cfg = train.setup(default_argument_parser().parse_args(opts))
    assert cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES == 100


def test_bad_input_ends_with_a_sentence(tmp_path):
    with pytest.raises(SystemExit) as caught:
        train.run(parse(tmp_path, SOLVER__BASE_LRR=1.0))
    assert caught.value.code == (
        "error: command line: unknown configuration key SOLVER.BASE_LRR; "
        "did you mean SOLVER.BASE_LR?"
    )


def test_data_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/nowhere")
    for flags in ((), ("--eval-only",)):
        with pytest.raises(SystemExit, match=r"error: data set camvid.*DETECTRON2_DATASETS"):
            train.run(parse(tmp_path, *flags))


def test_a_process_of_several_that_fails(tmp_path, monkeypatch):
    def launch(*_: object, **__: object) -> None:
        raise ProcessExitedException("process 1 terminated with exit code 1", 1, 7, 1)

    monkeypatch.setattr(train, "launch", launch)
    with pytest.raises(SystemExit, match="process 1 terminated with exit code 1"):
        train.launch_run(ours(tmp_path))


def ours(folder: Path, *flags: str, **changes: object) -> Namespace:
    return train.argument_parser().parse_args(arguments(folder, *flags, **changes))


@pytest.mark.usefixtures("images")
def test_a_run_is_not_started_over_unless_told_to(tmp_path):
    train.train_or_evaluate(ours(tmp_path, DATASETS__TEST="()"))
    config = (tmp_path / "out" / "config.yaml").read_text()
    metrics = (tmp_path / "out" / "metrics.json").read_text()
    with pytest.raises(
        InputError, match=r"holds a run, last saved as model_final\.pth; give --res"
    ):
        train.train_or_evaluate(ours(tmp_path, DATASETS__TEST="()", SOLVER__MAX_ITER=1))
    assert (tmp_path / "out" / "config.yaml").read_text() == config
    train.train_or_evaluate(ours(tmp_path, "--eval-only", INPUT__MIN_SIZE_TEST=48))
    assert (tmp_path / "out" / "config.yaml").read_text() == config
    with pytest.raises(InputError, match=r"of another model: .*query_embed"):
        train.train_or_evaluate(
            ours(tmp_path, "--resume", MODEL__MASK_FORMER__NUM_OBJECT_QUERIES=13)
        )
    assert (tmp_path / "out" / "config.yaml").read_text() == config
    assert (tmp_path / "out" / "metrics.json").read_text() == metrics
    train.train_or_evaluate(ours(tmp_path, "--overwrite", DATASETS__TEST="()", SOLVER__MAX_ITER=1))
    assert torch.load(tmp_path / "out" / "model_final.pth")["trainer"]["iteration"] == 0
    iterations = (tmp_path / "out" / "metrics.json").read_text().count('"iteration"')
    assert iterations == 1


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_a_dry_run_leaves_a_run_as_it_is(tmp_path, capsys, flags):
    kept = [tmp_path / "out" / name for name in ("last_checkpoint", "metrics.json", "wandb_run")]
    (tmp_path / "out").mkdir()
    for path in kept:
        path.write_text("of a run")
    train.train_or_evaluate(ours(tmp_path, "--dry-run", *flags, DATASETS__TEST="()"))
    assert "for all iterations at that pace" in capsys.readouterr().out
    assert [path.read_text() for path in kept] == 3 * ["of a run"]


@pytest.mark.usefixtures("images")
def test_a_drawn_seed_is_written_down(tmp_path):
    drawn = [train.setup(ours(tmp_path / name, SEED=-1)).SEED for name in "ab"]
    assert min(drawn) >= 0
    assert drawn[0] != drawn[1]


@pytest.mark.usefixtures("images")
def test_ctrl_c_ends_with_how_to_go_on(tmp_path, monkeypatch, capfd):
    step = train.Trainer.run_step

    def interrupted(trainer: train.Trainer) -> None:
        step(trainer)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train.Trainer, "run_step", interrupted)
    monkeypatch.setattr(sys, "argv", ["./train_net.py", "SEED", "3"])
    with pytest.raises(SystemExit) as caught:
        train.run(ours(tmp_path, DATASETS__TEST="()"))
    assert caught.value.code == 130
    assert capfd.readouterr().err.splitlines()[-3:] == [
        "stopped by SIGINT",
        "training ended in iteration 0; --resume goes on at 1:",
        "    ./train_net.py --resume SEED 3",
    ]


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--num-gpus", "-1"], "--num-gpus is -1"),
        (["--num-processes", "0"], "--num-processes is 0"),
        (["--num-machines", "0"], "--num-machines is 0"),
        (["--machine-rank", "5", "--num-machines", "2"], "--machine-rank is 5 of 2 machines"),
        (["--num-machines", "2"], "--num-machines has no --dist-url"),
        (
            ["--num-machines", "2", "--dist-url", "tcp://host:1", "--num-gpus", "0"],
            "--num-machines is of GPUs, of which there is none here",
        ),
    ],
)
def test_processes_that_cannot_be_had(flags, fault):
    with pytest.raises(InputError, match=f"^{fault}"):
        train.check_processes(train.argument_parser().parse_args(flags))


@pytest.mark.usefixtures("images")
def test_two_processes_on_the_cpu(tmp_path):
    """By torch's launcher: they train as one, and one alone talks."""
    line = arguments(tmp_path, "--num-gpus", "0", "--num-processes", "2", SOLVER__IMS_PER_BATCH=4)
    command = [sys.executable, "-W", "ignore", str(ROOT / "train_net.py"), *line]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Starting training from iteration 0") == 1
    assert "4 pictures over 2 processes" in done.stdout
    assert torch.load(tmp_path / "out" / "model_final.pth")["trainer"]["iteration"] == 1
    failing = [*command, "SOLVER.IMS_PER_BATCH", "3"]
    done = subprocess.run(failing, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "which 2 processes cannot share alike" in done.stderr
    assert "Traceback" not in done.stderr


def test_truncated_image_from_the_command_line(tmp_path, images):
    """In its own process: the exit code, one sentence, no traceback, and a checkpoint."""
    for path in images.iterdir():
        path.write_bytes(path.read_bytes()[:200])
    args = arguments(tmp_path, "--num-gpus", "0", DATALOADER__NUM_WORKERS=1)
    command = [sys.executable, "-W", "ignore", str(ROOT / "train_net.py"), *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: image {images}")
    assert "training ended in iteration 0; nothing of it is saved" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr + log_of(tmp_path)
    assert not (tmp_path / "out" / "last_checkpoint").exists()


def test_can_be_executed():
    assert os.access(ROOT / "train_net.py", os.X_OK)
    assert (ROOT / "train_net.py").read_text().startswith("#!/usr/bin/env python\n")


def test_on_camvid(datasets_root, tmp_path, monkeypatch):
    """The published configuration but for the image sizes: the real model, real images."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(datasets_root))
    subset = "camvid_four_images"
    samples = DatasetCatalog.get("camvid_sem_seg_val")[:4]
    metadata = MetadataCatalog.get("camvid_sem_seg_val").as_dict()
    DatasetCatalog.register(subset, lambda: samples)
    MetadataCatalog.get(subset).set(**{**metadata, "name": subset})
    opts = [*flat(QUICK), "DATASETS.TEST", f"('{subset}',)", "OUTPUT_DIR", str(tmp_path)]
    opts += ["INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.CROP.SIZE", "(96, 128)"]
    opts += ["INPUT.MIN_SIZE_TEST", "96", "TEST.EVAL_PERIOD", "1"]
    try:
        train.train_or_evaluate(
            default_argument_parser().parse_args(["--config-file", str(CONFIG), *opts])
        )
    finally:
        DatasetCatalog.remove(subset)
        MetadataCatalog.remove(subset)
    result = torch.load(tmp_path / "inference" / "sem_seg_evaluation.pth", weights_only=False)
    assert {"mIoU", "IoU-bicyclist"} <= result.keys()
    truth = (Path(sample["sem_seg_file_name"]) for sample in samples)
    assert_accuracy(result, tmp_path / "inference", truth)
    log = (tmp_path / "metrics.json").read_text()
    assert "loss_dice_4" in log  # deep supervision of six layers
    assert torch.load(tmp_path / "model_final.pth")["trainer"]["iteration"] == 1


OWN_DATA = """
from pathlib import Path
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_sem_seg

FOLDER = Path(__file__).parent / "camvid"
for split in ("train", "val"):
    images, labels = (str(FOLDER / kind / split) for kind in ("images", "annotations"))
    DatasetCatalog.register(f"mine_{split}", lambda i=images, a=labels: load_sem_seg(a, i))
    MetadataCatalog.get(f"mine_{split}").set(
        stuff_classes=list("abcdefghijk"), ignore_label=11, evaluator_type="sem_seg"
    )
"""


@pytest.mark.usefixtures("images")
def test_own_data_sets_are_imported(tmp_path):
    (tmp_path / "mine.py").write_text(OWN_DATA)
    names = {"DATASETS__TRAIN": "('mine_train',)", "DATASETS__TEST": "('mine_val',)"}
    flags = ["--import", str(tmp_path / "mine.py")]
    done = subprocess.run(
        [sys.executable, "train_net.py", *arguments(tmp_path, *flags, **names)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "mine_val" in log_of(tmp_path)
    flags = ["--import", str(tmp_path / "none.py")]
    args = train.argument_parser().parse_args(arguments(tmp_path, *flags))
    with pytest.raises(InputError, match=r"--import: there is no file .*none\.py"):
        train.train_or_evaluate(args)


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("flags", [(), ("--eval-only",)])
def test_data_sets_are_checked_before_the_model_is_built(tmp_path, monkeypatch, flags):
    monkeypatch.setattr(Trainer, "build_model", lambda cfg: pytest.fail("too late"))
    name = "camvid_of_other_classes"
    classes = ["sky", "building", *MetadataCatalog.get("camvid_sem_seg_val").stuff_classes[2:]]
    DatasetCatalog.register(name, lambda: [])
    MetadataCatalog.get(name).set(stuff_classes=classes[::-1], evaluator_type="sem_seg")
    try:
        with pytest.raises(InputError, match=r"class 0 is \w+ in data set camvid_sem_seg_train"):
            train.train_or_evaluate(parse(tmp_path, *flags, DATASETS__TEST=f"('{name}',)"))
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.parametrize("name", ["", "file", "file/below"])
def test_an_output_folder_that_cannot_be_written_to(tmp_path, name):
    (tmp_path / "file").touch()
    output = tmp_path / name if name else name
    with pytest.raises(SystemExit, match=r"^error: .*OUTPUT_DIR is "):
        train.run(parse(tmp_path, OUTPUT_DIR=output))


def test_an_evaluation_of_nothing(tmp_path):
    with pytest.raises(InputError, match=r"DATASETS\.TEST is empty; name the data sets"):
        train.train_or_evaluate(parse(tmp_path, "--eval-only", DATASETS__TEST="()"))


def test_a_share_that_is_no_number(capsys):
    with pytest.raises(SystemExit, match="2"):
        train.argument_parser().parse_args(["--min-loaded", "nan"])
    assert "argument --min-loaded: 'nan' is not a number from 0 to 1" in capsys.readouterr().err
