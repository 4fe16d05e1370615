"""Command lines: flags, files and folders that are wrong, for each script."""

import contextlib
import importlib.util
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image

from mask_former.commands import train as training
from mask_former.d2.build.model import build_model
from mask_former.d2.config import load_config
from tests.bad_inputs.case import Case
from tests.small_runs import CONFIG, TINY, flat

ROOT = Path(training.__file__).parents[2]
SHAPES = str(ROOT / "configs" / "shapes" / "maskformer_panoptic_tiny.yaml")
NUMBERS = ("0", "-1", "1.5", "nan", "many", "")
SHARES = ("nan", "-0.1", "1.5", "inf", "half", "")


def cases(folder: Path) -> Iterator[Case]:
    """Each script in turn."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "text.txt").write_text("a text\n")
    Image.new("RGB", (40, 32)).save(folder / "picture.png")
    (folder / "torn.png").write_bytes((folder / "picture.png").read_bytes()[:60])
    (folder / "text.png").write_text("a text\n")
    (folder / "empty.png").write_bytes(b"")
    for name, lines in _lines(folder).items():
        act = train if name == "train_net" else _module(name).main
        for line in lines:
            argv = [str(part) for part in line]
            shown = " ".join(argv).replace(" ".join(flat(TINY)), "TINY")
            shown = shown.replace(str(folder), "folder").replace(f"{ROOT}/", "")
            yield Case("command line", f"{name} {shown}", partial(act, argv))


def _module(name: str) -> ModuleType:
    """A script; those of ``datasets/`` have names that no import takes."""
    path = ROOT / "datasets" / f"{name}.py"
    if not path.is_file():
        return importlib.import_module(
            f"mask_former.{name}" if name.startswith("commands") else name
        )
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(line: list[str]) -> None:
    """``train_net.py`` without a launcher."""
    args = training.argument_parser().parse_args(line)
    training.check_processes(args)
    training.run(args)


def _lines(folder: Path) -> dict[str, list[list[Any]]]:
    prepare = [
        "prepare_ade20k_full_sem_seg",
        "prepare_ade20k_pan_seg",
        "prepare_ade20k_sem_seg",
        "prepare_coco_stuff_10k_v1.0_sem_seg",
    ]
    scripts: dict[str, list[list[Any]]] = {
        "train_net": _train_lines(folder),
        "mask_former.commands.demo": _demo_lines(folder),
        "mask_former.commands.analyze_model": _analyze_lines(),
        "mask_former.commands.plot_metrics": _plot_lines(folder),
        "mask_former.commands.evaluate_pq_for_semantic_segmentation": _quality_lines(folder),
        "tools.document_keys": [[], [folder], [folder / "text.txt" / "x"], ["/proc/keys.md"]],
        "mask_former.commands.prepare_shapes": [
            *([f"--num-{split}", number] for split in ("train", "val") for number in NUMBERS[1:]),
            ["--seed", "x"],
            ["--output", folder / "text.txt"],
            ["--ouput", folder / "x"],
        ],
        **{name: [[], *(["--workers", n] for n in NUMBERS), ["--x"]] for name in prepare},
    }
    for name in ("convert_swin", "convert_torchvision"):
        scripts[f"mask_former.commands.{name}"] = _convert_lines(folder)
    return scripts


def _train_lines(folder: Path) -> list[list[Any]]:
    usual = ["--config-file", CONFIG, "--num-gpus", "0"]
    tiny = [*flat(TINY), "OUTPUT_DIR", folder / "run"]
    (folder / "held").mkdir()
    (folder / "held" / "last_checkpoint").write_text("model_final.pth")
    outputs = ["", " ", folder / "text.txt", folder / "text.txt" / "x", "/proc/x", "/dev/null"]
    outputs += ["x" * 300, folder / "held"]
    return [
        *([f"--{flag}", n] for flag in ("num-processes", "num-machines") for n in NUMBERS),
        *(["--num-gpus", n] for n in NUMBERS[1:]),
        *(["--machine-rank", n] for n in (*NUMBERS[1:], "5")),
        *([*usual, "--min-loaded", n, *tiny] for n in SHARES),
        ["--num-machines", "2"],
        ["--num-machines", "2", "--machine-rank", "2", "--dist-url", "tcp://a:1"],
        ["--confg-file", CONFIG],
        ["--config-file"],
        *(["--config-file", f] for f in ("none.yaml", folder, folder / "text.txt", "/dev/null")),
        *([*usual, *tiny, "OUTPUT_DIR", output] for output in outputs),
        [*usual, *tiny, "SOLVER.MAX_ITER"],
        [*usual, *tiny, "SOLVER.MAX_ITR", "5"],
        [*usual, *tiny, "SOLVER", "5"],
        [*usual, *tiny, "MODEL.MASK_FORMER.TEST", "True"],
        [*usual, *tiny, "_BASE_", "x.yaml"],
        [*usual, *tiny, "", "5"],
        [*usual, *tiny, "SOLVER.", "5"],
        [*usual, *tiny, "SOLVER.BASE_LR", "(" * 150],
        [*usual, *tiny, "SOLVER.BASE_LR", "[" * 5000],
        [*usual, *tiny, "SOLVER.BASE_LR", "-" * 90_000 + "1"],
        [*usual, *tiny, "SOLVER.BASE_LR", "{[]: 1}"],
        [*usual, *tiny, "SOLVER.BASE_LR", "{1: 2}"],
        [*usual, *tiny, "SOLVER.BASE_LR", "{'A': 2}"],
        [*usual, *tiny, "SOLVER.BASE_LR", "9" * 5000],
        [*usual, *tiny, "SOLVER.STEPS", "{1, 2}"],
        [*usual, *tiny, "SOLVER.BASE_LR", "b'1'"],
        [*usual, *tiny, "SOLVER.BASE_LR", "1j"],
        [*usual, *tiny, "DATASETS.TRAIN", "()"],
        [*usual, *tiny, "MODEL.WEIGHTS", "missing.pth"],
        [*usual, *tiny, "MODEL.WEIGHTS", folder / "text.txt"],
        [*usual, "--eval-only", *tiny, "MODEL.WEIGHTS", folder],
        [*usual, "--eval-only", *tiny, "DATASETS.TEST", "()"],
        [*usual, "--resume", *tiny, "OUTPUT_DIR", folder / "held"],
    ]


def _demo_lines(folder: Path) -> list[list[Any]]:
    weights = folder / "model.pth"
    torch.save({"model": build_model(load_config(SHAPES, device="cpu")).state_dict()}, weights)
    other = folder / "other.pth"
    state = {"sem_seg_head.predictor.class_embed.weight": torch.zeros(3, 64)}
    torch.save({"model": state}, other)
    picture, output = folder / "picture.png", folder / "found.png"
    start = ["--config-file", SHAPES]
    opts = ["--opts", "MODEL.WEIGHTS", weights]
    bad: list[Any] = [
        folder / name for name in ("text.txt", "text.png", "torn.png", "empty.png", "none.png")
    ]
    bad += [folder, folder / "*.gif", "", "/dev/null"]
    targets = [
        folder / "text.txt" / "x",
        "/proc/x",
        picture,
        folder / "found.xyz",
        folder / "a.mp4",
    ]
    return [
        [],
        ["--input"],
        ["--input", picture, "--webcam"],
        ["--webcam", "--output", output],
        ["--video-input", folder / "none.mp4", "--output", folder / "out"],
        ["--video-input", folder / "text.txt", "--output", folder / "out"],
        ["--video-input", folder / "none.mp4", "--save", "label"],
        ["--input", picture, "--save", "label"],
        ["--input", picture, "--save", "labels"],
        ["--input", picture, "--save"],
        *(["--input", picture, "--confidence-threshold", share] for share in SHARES),
        *([*start, "--input", path, "--output", folder / "out", *opts] for path in bad),
        *([*start, "--input", picture, "--output", target, *opts] for target in targets),
        [*start, "--input", picture, picture, "--output", folder / "out", *opts],
        [*start, "--input", picture, folder / "torn.png", "--output", output, *opts],
        [*start, "--input", picture, "--output", output],
        [*start, "--input", picture, "--output", output, "--opts", "MODEL.WEIGHTS"],
        [*start, "--input", picture, "--output", output, "--opts", "MODEL.WEIGHTS", ""],
        [*start, "--input", picture, "--output", output, "--opts", "MODEL.WEIGHTS", other],
        [*start, "--input", picture, "--output", output, "--opts", "MODEL.WEIGHTS", "none.pth"],
        [*start, "--input", picture, "--output", output, *opts, "MODEL.DEVICE", "cuda:77"],
        [*start, "--input", picture, "--output", output, *opts, "INPUT.FORMAT", "L"],
        [*start, "--input", picture, "--output", output, *opts, "INPUT.MIN_SIZE_TEST", "-1"],
        ["--config-file", "none.yaml", "--input", picture, "--output", output],
        ["--config-file", folder, "--input", picture, "--output", output],
    ]


def _analyze_lines() -> list[list[Any]]:
    usual = ["--config-file", SHAPES, "--tasks", "parameter"]
    flop = ["--config-file", SHAPES, "--tasks", "flop"]
    return [
        [],
        ["--config-file", SHAPES],
        ["--tasks", "flop"],
        ["--config-file", SHAPES, "--tasks"],
        ["--config-file", SHAPES, "--tasks", "flops"],
        *([*usual, "-n", number] for number in NUMBERS),
        ["--config-file", "none.yaml", "--tasks", "flop"],
        [*flop, "--use-fixed-input-size", "INPUT.CROP.TYPE", "relative"],
        [*flop, "-n", "1", "DATASETS.TEST", "()"],
        [*flop, "-n", "1", "DATASETS.TEST", "('none',)"],
        [*usual, "-n", "1", "MODEL.MASK_FORMER.NHEADS", "7"],
    ]


def _plot_lines(folder: Path) -> list[list[Any]]:
    contents = {
        "json": b"{\n",
        "list": b"[1]\n",
        "number": b"5\n",
        "text": b'{"iteration": 1, "total_loss": "high"}\n',
        "none": b'{"iteration": null, "total_loss": 1}\n',
        "no_iteration": b'{"total_loss": 1}\n',
        "binary": b"\xff\xfe\x00\n",
        "empty": b"",
        "good": b'{"iteration": 1, "total_loss": 1.0}\n',
    }
    for name, content in contents.items():
        (folder / "runs" / name).mkdir(parents=True)
        (folder / "runs" / name / "metrics.json").write_bytes(content)
    good, output = folder / "runs" / "good", folder / "curves.png"
    broken = [folder / "runs" / name for name in contents if name != "good"]
    return [
        [],
        ["--output", output],
        [good],
        *([run, "--output", output] for run in broken),
        [folder / "none", "--output", output],
        [good, good, "--output", output],
        [good, "--output", output, "--metric", "mIoU"],
        [good, "--output", folder / "none" / "curves.png"],
        [good, "--output", folder / "curves.xyz"],
        [good, "--output", folder],
    ]


def _quality_lines(folder: Path) -> list[list[Any]]:
    contents: dict[str, Any] = {
        "map": {},
        "list": [],
        "numbers": [1, 2],
        "no_file": [{"category_id": 1}],
        "text": "predictions",
        "null": None,
        "entry": [{"file_name": "0.jpg", "category_id": 1, "segmentation": 5}],
        "foreign": [{"file_name": "x.jpg", "category_id": 1, "segmentation": {"size": [1, 1]}}],
    }
    name = ["--dataset-name", "camvid_sem_seg_val"]
    lines: list[list[Any]] = [
        [],
        [*name, "--json-file", folder / "none.json"],
        [*name, "--json-file", folder],
        [*name, "--json-file", folder / "text.txt"],
        [*name, "--json-file", folder / "picture.png"],
        ["--dataset-name", "camvid", "--json-file", folder / "list.json"],
        ["--dataset-name", "ade20k_sem_seg_val", "--json-file", folder / "list.json"],
    ]
    for kind, content in contents.items():
        (folder / f"{kind}.json").write_text(json.dumps(content))
        lines.append([*name, "--json-file", folder / f"{kind}.json"])
    return lines


def _convert_lines(folder: Path) -> list[list[Any]]:
    with contextlib.suppress(FileExistsError):
        (folder / "taken").mkdir()
    foreign = folder / "foreign.pth"
    torch.save({"model": {"weight": torch.zeros(3)}}, foreign)
    output = folder / "converted.pkl"
    inputs = ["none.pth", folder, folder / "text.txt", folder / "empty.png", foreign, ""]
    return [
        [],
        [foreign],
        *([path, output] for path in inputs),
        [foreign, foreign],
        [foreign, folder / "taken"],
        [foreign, folder / "no" / "folder.pkl"],
    ]
