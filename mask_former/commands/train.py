"""Trains and evaluates: ``mask_former train --config-file FILE [--eval-only] [KEY VALUE]``.

Any number of ``KEY VALUE`` pairs overrides the file; ``--help`` lists the other arguments.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from torch.multiprocessing.spawn import ProcessExitedException

from ..d2.allocation import keep_freed_memory
from ..d2.checkpoint import LoadOptions, MaskFormerCheckpointer, average_weights
from ..d2.command_line.arguments import share
from ..d2.command_line.importing import add_import_argument, import_code
from ..d2.config import load_config
from ..d2.data.preparing import telling_errors
from ..d2.describing.command import add_arguments, tell
from ..d2.describing.describe import Request, describe
from ..d2.errors import InputError
from ..d2.fuse_norms import optimize_for_inference
from ..d2.run.batch_scaling import scale_batch
from ..d2.run.dry_run import dry_run
from ..d2.run.files import replacing, require_writable
from ..d2.run.processes import is_one_of_several, join_group, run_processes
from ..d2.run.randomness import set_deterministic
from ..d2.run.terminal import open_logs
from ..d2.solver import check_solver
from ..d2.trainer import Trainer
from ..d2.weights.record import load_trained_config

_logger = logging.getLogger(__name__)


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's arguments, and how weights are loaded."""
    parser = default_argument_parser()
    parser.add_argument(
        "--trust-weights",
        action="store_true",
        help="let a file of weights run whatever it names, as pickles may; only for your own files",
    )
    parser.add_argument(
        "--min-loaded",
        type=share,
        default=LoadOptions().min_loaded,
        metavar="F",
        help="fail if less than this fraction of a file's weights fit the model (%(default)s)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="start anew in a folder that holds a checkpoint, whose files give way one by one",
    )
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="SOLVER.IMS_PER_BATCH N, with the learning rate times N / the configuration's, and "
        "iterations, warm-up, steps and periods divided by that",
    )
    parser.add_argument(
        "--num-processes",
        type=int,
        default=1,
        metavar="N",
        help="share a batch among N processes on the CPU",
    )
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help="train on a folder of your own pictures and annotations: describe it in OUTPUT_DIR/"
        "data, as `mask_former describe` does, and go on with the configuration filled there",
    )
    add_arguments(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what the run would be, after two iterations that nothing keeps",
    )
    add_import_argument(parser)
    return parser


def use_data(args: argparse.Namespace) -> None:
    """Describes the folder of ``--data`` and takes the configuration that is filled for it."""
    output = os.path.join(
        load_config(args.config_file or None, args.opts, "cpu").OUTPUT_DIR, "data"
    )
    config = Path(output, "config.yaml")
    if not is_one_of_several():  # else the launcher has done it
        choices = (args.from_scratch, args.ignore, args.names)
        config_file = args.config_file or None
        request = Request(args.data, output, config_file, args.opts, *choices, format=args.format)
        described = describe(request)
        print(tell(described))
        if described.config is None:
            sys.exit(f"error: the data have errors, see {described.report}; nothing is trained")
    elif not config.is_file():
        raise InputError(f"{config} is not there; run `mask_former describe --output {output}`")
    args.config_file = str(config)


def load_options(args: argparse.Namespace) -> LoadOptions:
    """How weights are loaded; ``args`` may be of Detectron2's own parser."""
    default = LoadOptions()
    trusted = getattr(args, "trust_weights", default.trusted)
    return LoadOptions(trusted, getattr(args, "min_loaded", default.min_loaded))


def setup(args: argparse.Namespace) -> CfgNode:
    """The frozen configuration of a run; sets up its logs and its random numbers."""
    import_code(getattr(args, "imports", ()))
    device = "cpu" if args.num_gpus == 0 else None
    if args.eval_only and not args.config_file:  # the weights may carry theirs
        cfg = load_trained_config(None, args.opts, device, evaluate=True)
    else:
        cfg = load_config(args.config_file or None, args.opts, device)
    if cfg.SEED < 0:
        cfg.SEED = comm.shared_random_seed()
    batch = getattr(args, "batch", None)  # which Detectron2's own parser does not know
    scaled = "" if batch is None else scale_batch(cfg, batch)
    check_solver(cfg)
    cfg.freeze()
    require_writable(cfg.OUTPUT_DIR)
    open_logs(cfg.OUTPUT_DIR)
    if scaled:
        _logger.info("--batch %d, by the linear rule\n%s", batch, scaled)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # no CUDA: no fault
    _logger.debug("Environment info:\n%s", collect_env_info())
    _logger.debug("Command line arguments: %s", args)
    _logger.debug("Running with full config:\n%s", cfg.dump())
    seed_all_rng(cfg.SEED + comm.get_rank())
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and not args.eval_only
    set_deterministic(cfg.SOLVER.DETERMINISTIC)
    return cfg


def train_or_evaluate(args: argparse.Namespace) -> Any:
    """Trains, or evaluates with ``--eval-only``.

    Args:
        args: of :func:`argument_parser`, or of Detectron2's ``default_argument_parser``.

    Returns:
        With ``--eval-only``, the results of the evaluators.
    """
    cfg = setup(args)
    if args.eval_only:
        return evaluate(cfg, args.resume, load_options(args))
    is_dry = getattr(args, "dry_run", False)
    # Detectron2's parser does not know it; its users' folders are as Detectron2 treats them.
    if not (args.resume or is_dry) and hasattr(args, "overwrite"):
        check_folder(cfg.OUTPUT_DIR, args.overwrite)
    trainer = Trainer(cfg)
    trainer.checkpointer.options = load_options(args)
    trainer.resume_or_load(resume=args.resume)
    if is_dry:
        told = dry_run(trainer)
        return print(told) if comm.is_main_process() else None
    save_config(trainer.cfg)
    return trainer.train()


def check_folder(folder: str, overwrite: bool) -> None:
    """Refuses to start over where a run has left a checkpoint, unless told to."""
    tag = Path(folder, "last_checkpoint")
    if tag.is_file() and not overwrite:
        raise InputError(
            f"{folder} holds a run, last saved as {tag.read_text(encoding='utf-8')}; give --resume "
            "to go on with it, --overwrite to start anew, or another OUTPUT_DIR"
        )
    if comm.is_main_process():
        for path in (
            tag,
            Path(folder, "metrics.json"),
            Path(folder, "wandb_run"),
        ):  # of the run that starts over
            path.unlink(missing_ok=True)
    comm.synchronize()


def save_config(cfg: CfgNode) -> None:
    """Writes ``config.yaml``, from which the run can be repeated and its model built."""
    if comm.is_main_process():
        with replacing(Path(cfg.OUTPUT_DIR, "config.yaml")) as file:
            file.write(cfg.dump().encode())


def evaluate(cfg: CfgNode, resume: bool, options: LoadOptions | None = None) -> Any:
    """Results of ``MODEL.WEIGHTS``, or with ``resume`` of the last checkpoint, on DATASETS.TEST."""
    if not cfg.DATASETS.TEST:
        raise InputError("DATASETS.TEST is empty; name the data sets that --eval-only evaluates on")
    if cfg.TEST.AUG.ENABLED:
        Trainer.check_TTA(cfg)  # before the evaluation that comes first
    Trainer.check_data(cfg, train=False)
    if not Path(cfg.OUTPUT_DIR, "config.yaml").exists():
        save_config(cfg)
    model = Trainer.build_model(cfg)
    checkpointer = MaskFormerCheckpointer(model, save_dir=cfg.OUTPUT_DIR, options=options)
    if not (cfg.MODEL.WEIGHTS or resume):
        _logger.warning("MODEL.WEIGHTS is empty: random weights are evaluated")
    average = average_weights(checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume))
    optimize_for_inference(model)
    results = Trainer.test(cfg, model)
    if average is not None:
        model_of_average = Trainer.build_model(cfg)
        model_of_average.load_state_dict(average)
        results.update(Trainer.test_average(cfg, optimize_for_inference(model_of_average)))
    if cfg.TEST.AUG.ENABLED:
        results.update(Trainer.test_with_TTA(cfg, model))
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def run(args: argparse.Namespace) -> None:
    """``train_or_evaluate``, which bad input and Ctrl-C end with a sentence, not a traceback."""
    # Detectron2 logs the traceback of whatever ends a training.
    logging.getLogger("detectron2.engine.train_loop").addFilter(_is_no_input_error)
    try:
        train_or_evaluate(args)
    except InputError as error:
        sys.exit("\n".join([f"error: {InputError.sentence(error)}", *notes(error)]))
    except KeyboardInterrupt as error:
        if comm.is_main_process():
            print("\n".join([str(error) or "interrupted", *notes(error)]), file=sys.stderr)
        sys.exit(128 + getattr(error, "number", signal.SIGINT))


def notes(error: BaseException) -> list[str]:
    """What the trainer has added to what ended it: where ``--resume`` goes on."""
    return list(getattr(error, "__notes__", []))


def _is_no_input_error(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], InputError))


def launch_run(args: argparse.Namespace) -> None:
    """``run`` in this process, in one for each GPU, or in ``--num-processes`` on the CPU.

    A process of torchrun, or of a launcher that sets the same variables, meets its group.
    """
    num_gpus = args.num_gpus if torch.cuda.is_available() else 0
    try:
        if is_one_of_several():
            join_group(use_cuda=num_gpus > 0)
            run(args)
        elif args.num_processes > 1:
            sys.exit(run_processes(args.num_processes, sys.argv))
        else:
            launch(run, num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,))
    except InputError as error:
        sys.exit(f"error: {error}")
    except ProcessExitedException as error:  # the process itself has said why
        sys.exit(str(error))


def check_processes(args: argparse.Namespace) -> None:
    """Refuses numbers of processes and machines that contradict themselves or cannot be had."""
    world = os.environ.get("WORLD_SIZE", "1")
    faults = {
        f"--num-gpus is {args.num_gpus}": args.num_gpus < 0,
        f"--num-processes is {args.num_processes}": args.num_processes < 1,
        f"--num-machines is {args.num_machines}": args.num_machines < 1,
        f"--machine-rank is {args.machine_rank} of {args.num_machines} machines": not (
            0 <= args.machine_rank < max(args.num_machines, 1)
        ),
        f"--num-processes {args.num_processes} is of the CPU, but --num-gpus is {args.num_gpus}": (
            args.num_processes > 1 and args.num_gpus > 0 and torch.cuda.is_available()
        ),
        "--num-machines has no --dist-url at which the machines can meet": (
            args.num_machines > 1 and "127.0.0.1" in args.dist_url
        ),
        f"--num-gpus is {args.num_gpus}, but this machine has {torch.cuda.device_count()}": (
            torch.cuda.is_available() and args.num_gpus > torch.cuda.device_count()
        ),
        "--num-machines is of Detectron2's launcher, but torchrun has started this process": (
            args.num_machines > 1 and "RANK" in os.environ
        ),
        "--num-machines is of GPUs, of which there is none here; start CPU processes by torchrun": (
            args.num_machines > 1 and not (args.num_gpus > 0 and torch.cuda.is_available())
        ),
        f"--num-processes is {args.num_processes}, but WORLD_SIZE {world} in the environment": (
            "RANK" in os.environ and str(args.num_processes) not in ("1", world)
        ),
    }
    for fault, is_there in faults.items():
        if is_there:
            raise InputError(f"{fault}; see --help")


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, checks, and launches."""
    keep_freed_memory()
    args = argument_parser().parse_args(argv)
    with telling_errors():
        check_processes(args)
        if args.data is not None:
            use_data(args)
    launch_run(args)
