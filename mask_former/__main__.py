"""The command ``mask_former``, which is ``python -m mask_former`` as well.

``mask_former --help`` lists what it can do; the module of a command is imported when it is named.
"""

import argparse
import difflib
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from . import __version__

COMMANDS = {
    "train": ("train", "train, go on with a training, or evaluate a model"),
    "demo": ("demo", "draw what a model sees in pictures, a video or the camera"),
    "predict": ("predict", "segment many pictures to files"),
    "web": ("web", "a page on which a model segments pictures and each query is explained"),
    "export": ("export", "write a model as one file for ONNX Runtime, PyTorch or OpenVINO"),
    "describe": ("describe_dataset", "describe a folder of your own and fill a configuration"),
    "analyze": ("analyze_model", "parameters, operations and activations of a model"),
    "configs": ("configs", "list the configurations that --config-file finds by name"),
    "shapes": ("prepare_shapes", "draw shapes, a small data set"),
    "shapes-demo": ("shapes_demo", "draw shapes, train on them and show what was learnt"),
    "plot": ("plot_metrics", "draw a metric of several trainings"),
    "queries": ("query_report", "tell what each query of a model answers for"),
    "evaluate-pq": (
        "evaluate_pq_for_semantic_segmentation",
        "panoptic quality of predictions of semantic segmentation",
    ),
    "release": ("release_model", "safetensors and a model card of a trained model"),
    "convert-swin": ("convert_swin", "an ImageNet Swin of its authors as a backbone's file"),
    "convert-torchvision": ("convert_torchvision", "torchvision's ResNet as a backbone's file"),
    "convert-transformers": ("convert_transformers", "checkpoints from and to transformers"),
    "slurm": ("slurm_train", "train on a SLURM cluster"),
    "install-detectron2": ("install_detectron2", "install Detectron2 0.6 and panopticapi"),
}
"""By name, the module in ``commands`` and what it does."""
_WITHOUT_DETECTRON2 = ("shapes", "slurm", "install-detectron2")


def command(name: str) -> ModuleType:
    """The module of a command, whose ``main`` takes what stands behind the name.

    Where Detectron2 is needed and missing, the program ends with one sentence.
    """
    # Threads that wait are to sleep: when the cores are busy, those that spin take the time of the
    # one that they wait for. OpenMP reads it when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if name not in _WITHOUT_DETECTRON2:
        try:
            import_module(".d2", __package__)
        except ImportError as error:
            sys.exit(f"error: {error}")
    return import_module(f".commands.{COMMANDS[name][0]}", __package__)


def main(argv: Sequence[str] | None = None) -> int | None:
    """Runs a command, of which usages and hints then speak as it was called.

    Args:
        argv: a command and its arguments; None: those of the process.

    Returns:
        Its exit code; None: all is well.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    lines = "\n".join(f"  {name:<22}{line}" for name, (_, line) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="mask_former",
        usage="%(prog)s COMMAND ...",
        description="Mask classification for semantic, panoptic and instance segmentation.",
        epilog=f"commands, of which each has a --help of its own:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", type=_known, metavar="COMMAND", help="one of those below")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    name = parser.parse_args(arguments[:1]).command
    is_script = argv is None and os.path.basename(sys.argv[0]) != "__main__.py"
    program = shlex.quote(sys.argv[0]) if is_script else f"{sys.executable} -m {__package__}"
    sys.argv = [f"{program} {name}", *arguments[1:]]
    try:
        return command(name).main(arguments[1:])
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


def _known(name: str) -> str:
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        meant = f"; did you mean {close[0]}?" if close else "; --help lists all"
        raise argparse.ArgumentTypeError(f"there is no {name!r}{meant}")
    return name


if __name__ == "__main__":
    sys.exit(main())
