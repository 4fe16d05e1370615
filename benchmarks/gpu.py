"""What a CUDA device is to show, within nine minutes: ``python -m benchmarks.gpu FOLDER``.

The tests marked cuda; a few hundred iterations on the data set shapes in bfloat16, with the mIoU;
then criterion, post-processing and whole models in float32 and bfloat16, eager and compiled, beside
the reference and ``transformers``, each with its reads (``set_sync_debug_mode``) and its share of
the card's rate of matrix products. What the time does not suffice for is named and left out. All
goes into ``FOLDER/gpu.json`` after each step. ``benchmarks/README.md`` says what must be installed.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import models
from benchmarks.measure import ROOT, Row, compare, table

MINUTES = 9.0
RESERVE = 60  # seconds that a case may take
BOTH = ("float32", "bfloat16")
CASES = (
    *(f"criterion/coco/{dtype}" for dtype in BOTH),
    *(f"postprocessing/panoptic/1080p-133/{dtype}" for dtype in BOTH),
    *(f"postprocessing/semantic/ade20k/{dtype}" for dtype in BOTH),
    *(
        f"models/R50/{work}/{dtype}/{mode}"
        for mode in ("eager", "compiled")
        for work in ("panoptic/8", "train/8")
        for dtype in BOTH
    ),
    *(f"models/Swin-T/panoptic/8/bfloat16/{mode}" for mode in ("eager", "compiled")),
)
TINY = ("criterion/size=32/bfloat16", "models/R50/panoptic/1/bfloat16/eager/64")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs all, and prints one table last."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description=__doc__.partition(":")[0]
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="for gpu.json and the run on shapes")
    add("--try-on-cpu", action="store_true", help="the same steps with next to no work, on a CPU")
    args = parser.parse_args(argv)
    if not (args.try_on_cpu or torch.cuda.is_available()):
        sys.exit(
            f"benchmarks.gpu needs a CUDA device, and torch {torch.__version__} finds none; "
            "--try-on-cpu only tries its steps"
        )
    deadline = time.monotonic() + 60 * MINUTES
    args.folder.mkdir(parents=True, exist_ok=True)
    found: Row = {"machine": machine()}
    save = (args.folder / "gpu.json").write_text
    found["tests"] = cuda_tests("tests/functional" if args.try_on_cpu else "tests")
    save(json.dumps(found, indent=1))
    found["shapes"] = train_on_shapes(args.folder.resolve() / "shapes", tiny=args.try_on_cpu)
    rows: list[Row] = []
    found |= {"cases": rows, "left out": []}
    for case in TINY if args.try_on_cpu else CASES:
        try:
            if time.monotonic() > deadline - RESERVE:
                raise RuntimeError("no time left")
            rows += compare(case, threads=torch.get_num_threads())
        except RuntimeError as error:
            found["left out"].append(f"{case}: {error}")
        save(json.dumps(found, indent=1))
    found.pop("cases")
    print(json.dumps(found, indent=1), table(rows), sep="\n\n")


def machine() -> Row:
    """The card and the versions, which belong beside every figure."""
    on_gpu = torch.cuda.is_available()
    card = torch.cuda.get_device_name() if on_gpu else f"no card, {platform.processor()}"
    others = "transformers" if "transformers" in models.SIDES else "no transformers: ours alone"
    return {"card": card, "torch": torch.__version__, "cuda": torch.version.cuda, "other": others}


def cuda_tests(folder: str) -> str:
    """The last line of the tests marked cuda."""
    done = run([sys.executable, "-m", "pytest", "-q", "-m", "cuda", folder], {})
    return (done.stdout.strip() or done.stderr.strip()).splitlines()[-1]


def train_on_shapes(folder: Path, tiny: bool) -> Row:
    """The mIoU and the seconds of a short training in bfloat16 on the synthetic data set."""
    number, iterations = (8, 2) if tiny else (600, 400)
    draw = [sys.executable, str(ROOT / "datasets" / "prepare_shapes.py")]
    for split, images in (("train", number), ("val", max(2, number // 12)), ("dev", 1)):
        draw += [f"--num-{split}={images}"]
    config = ROOT / "configs" / "shapes" / "maskformer_panoptic_tiny.yaml"
    train = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(config)]
    train += ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "bfloat16"]
    train += ["SOLVER.MAX_ITER", str(iterations), "OUTPUT_DIR", str(folder / "run")]
    start = time.monotonic()
    for command in ([*draw, f"--output={folder / 'shapes'}"], train):
        done = run(command, {"DETECTRON2_DATASETS": str(folder)})
        if done.returncode:
            return {"failed": (done.stdout + done.stderr).strip().splitlines()[-1]}
    metrics = (folder / "run" / "metrics.json").read_text(encoding="utf-8").splitlines()[-1]
    seconds = round(time.monotonic() - start)
    return {"iterations": iterations, "mIoU": json.loads(metrics)["sem_seg/mIoU"], "s": seconds}


def run(command: Sequence[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The finished process, with what it has printed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


if __name__ == "__main__":
    main()
