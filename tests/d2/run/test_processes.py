"""One process or many: the same losses and weights, and what they say when they cannot agree."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from mask_former.commands import train as training
from mask_former.d2.errors import InputError
from mask_former.d2.run.processes import is_one_of_several, join_group
from mask_former.d2.trainer import Trainer
from tests.small_runs import CONFIG, ROOT, TINY, draw_images, flat, tiny_cfg

# No dropout, no batch norm in training, one size.
LAW = {
    "MODEL.RESNETS.NORM": "GN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 32,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.MASK_FORMER.DROPOUT": 0.0,
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.CROP.SIZE": "(64, 64)",
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.MAX_ITER": 10,
    "DATASETS.TEST": "()",
}
BASELINE = {
    "MODEL.META_ARCHITECTURE": "SemanticSegmentor",
    "MODEL.SEM_SEG_HEAD.NAME": "PerPixelBaselineHead",
    "MODEL.MASK_FORMER.VALID_MASK": False,
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With one thread, for other threads do not survive a fork."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    draw_images(tmp_path)
    return tmp_path


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _work(rank: int, world: int, port: int, function: Callable, args: tuple) -> None:
    names = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
    os.environ.update({name: str(number) for name, number in names.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    if world > 1:
        join_group(use_cuda=False)
    function(*args)


def run_ranks(world: int, function: Callable, *args: Any) -> list[int]:
    """Calls a function in processes of one gloo group; gives their exit codes."""
    context, port = multiprocessing.get_context("fork"), free_port()
    workers = [
        context.Process(target=_work, args=(rank, world, port, function, args))
        for rank in range(world)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        worker.kill()
    return [worker.exitcode for worker in workers]


class Record(HookBase):
    """The losses of every iteration."""

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []

    def after_step(self) -> None:
        if comm.is_main_process():
            latest = self.trainer.storage.latest()
            self.losses.append({k: v[0] for k, v in latest.items() if "loss" in k})


def train(folder: Path, options: dict, dtype: torch.dtype, *hooks: HookBase) -> None:
    """Saves the losses and the weights of a run."""
    torch.set_default_dtype(dtype)
    trainer, record = Trainer(tiny_cfg(folder, {**LAW, **options})), Record()
    trainer.register_hooks([record, *hooks])
    trainer.train()
    name = f"{comm.get_world_size()}.{comm.get_rank()}.pth"
    torch.save((record.losses, trainer.model.state_dict()), folder / name)


def results(folder: Path, world: int, options: dict, dtype: torch.dtype) -> tuple[list, dict]:
    assert run_ranks(world, train, folder, options, dtype) == [0] * world
    weights = [torch.load(folder / f"{world}.{rank}.pth")[1] for rank in range(world)]
    for others in weights[1:]:
        assert all(torch.equal(weights[0][key], others[key]) for key in others)
    return torch.load(folder / f"{world}.0.pth")[0], weights[0]


WORLDS = pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.nightly)])


@WORLDS
@pytest.mark.parametrize("options", [{}, BASELINE], ids=["masks", "per-pixel"])
def test_losses_are_those_of_one_process(data, options, world):
    (alone, _), (shared, _) = (
        results(data, n, {**options, "SOLVER.MAX_ITER": 2}, torch.float32) for n in (1, world)
    )
    for ours, theirs in zip(shared, alone, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)


@WORLDS
def test_weights_after_ten_steps_are_those_of_one_process(data, world):
    (_, alone), (_, shared) = (results(data, n, {}, torch.float64) for n in (1, world))
    prefix = "module."
    shared = {key.removeprefix(prefix): value for key, value in shared.items()}
    torch.testing.assert_close(shared, alone, rtol=0, atol=1e-5)


def test_parts_change_nothing_in_several_processes(data):
    (_, whole), (_, parts) = (
        results(data, 2, {"SOLVER.ACCUMULATE": n, "SOLVER.MAX_ITER": 4}, torch.float64)
        for n in (1, 2)
    )
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)


def test_statistics_are_averaged(data):
    """All processes hold those of the whole batch, as ``results`` compares."""
    norm = {"MODEL.RESNETS.NORM": "BN", "SOLVER.MAX_ITER": 1}
    _, weights = results(data, 2, norm, torch.float32)
    _, alone = results(data, 1, norm, torch.float32)
    key = "backbone.stem.conv1.norm.running_mean"
    torch.testing.assert_close(weights[f"module.{key}"], alone[key], rtol=0, atol=1e-6)
    assert alone[key].abs().max() > 0.01


def test_precise_statistics_are_averaged(data):
    """A step that does not move the weights, whose gradients such norms have differ."""
    norm = {"MODEL.RESNETS.NORM": "BN", "SOLVER.MAX_ITER": 1, "SOLVER.BASE_LR": 1e-9}
    norm |= {"TEST.PRECISE_BN.ENABLED": True, "TEST.PRECISE_BN.NUM_ITER": 2}
    (_, weights), (_, alone) = (results(data, n, norm, torch.float32) for n in (2, 1))
    key = "backbone.stem.conv1.norm.running_mean"
    torch.testing.assert_close(weights[f"module.{key}"], alone[key], rtol=0, atol=1e-6)


def evaluate(folder: Path, options: dict) -> None:
    trainer = Trainer(tiny_cfg(folder, {**LAW, **options, "TEST.LOSS": True}))
    found = trainer._evaluate()
    if comm.is_main_process():
        torch.save(found, folder / f"results{comm.get_world_size()}.pth")


def test_evaluation_is_that_of_one_process(data):
    """Results of three pictures, which two processes cannot share alike, and their losses."""
    for world in (1, 2):
        options = {"DATASETS.TEST": "('camvid_sem_seg_val',)"}
        assert run_ranks(world, evaluate, data, options) == [0] * world
    alone, shared = (torch.load(data / f"results{n}.pth", weights_only=False) for n in (1, 2))
    assert shared.keys() == alone.keys() == {"sem_seg", "validation"}
    for name, measures in alone.items():
        assert shared[name] == pytest.approx(measures, abs=1e-6, nan_ok=True)


def dry_run(folder: Path) -> None:
    opts = flat({**TINY, **LAW, "OUTPUT_DIR": folder / "out"})
    line = ["--config-file", str(CONFIG), "--num-gpus", "0", "--dry-run", *opts]
    training.train_or_evaluate(training.argument_parser().parse_args(line))


def test_one_process_tells_of_a_dry_run(data, capfd):
    assert run_ranks(2, dry_run, data) == [0, 0]
    assert capfd.readouterr().out.count("for all iterations at that pace") == 1


class OutOfMemory(HookBase):
    """Lets one process run out of memory once: in its forward, or as gradients are shared."""

    def __init__(self, where: str) -> None:
        self.where, self.seen = where, 0

    def before_train(self) -> None:
        core = self.trainer.model.module
        if self.where == "forward":
            core.criterion.register_forward_pre_hook(self.fail)
        else:
            core.sem_seg_head.predictor.query_embed.weight.register_hook(self.fail)

    def fail(self, *args: Any) -> None:
        self.seen += 1
        if comm.get_rank() == 1 and self.seen == 2:
            raise torch.OutOfMemoryError("none left")


def test_processes_agree_when_one_runs_out_of_memory(data):
    hook = OutOfMemory("forward")
    options = {"SOLVER.MAX_ITER": 4}
    assert run_ranks(2, train, data, options, torch.float64, hook) == [0, 0]
    shared = torch.load(data / "2.0.pth")[1]
    _, alone = results(data, 1, options, torch.float64)
    shared = {key.removeprefix("module."): value for key, value in shared.items()}
    torch.testing.assert_close(shared, alone, rtol=0, atol=1e-5)


def end_with_a_sentence(folder: Path, where: str, options: dict) -> None:
    try:
        train(folder, {"SOLVER.MAX_ITER": 4, **options}, torch.float32, OutOfMemory(where))
    except InputError as error:
        (folder / f"error{comm.get_rank()}").write_text(str(error))
        os._exit(7)
    except RuntimeError:  # the other is gone
        os._exit(8)


def test_a_process_that_runs_out_of_memory_too_late_ends_the_run(data):
    assert run_ranks(2, end_with_a_sentence, data, "backward", {}) == [8, 7]
    sentence = (data / "error1").read_text()
    assert sentence.startswith("out of memory as the processes shared their gradients (none left)")
    assert "SOLVER.ACCUMULATE 2, then go on with --resume" in sentence


GROUP = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "1",
}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"RANK": "5"}, "RANK is 5 in the environment, but WORLD_SIZE is 2; ranks are 0 to 1"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK is 2 in the environment, but LOCAL_WORLD_SIZE is 2"),
        ({"RANK": "-1"}, "RANK is '-1' in the environment; it must be a whole number"),
        ({"MASTER_ADDR": "", "LOCAL_RANK": ""}, "not set are LOCAL_RANK, MASTER_ADDR; start with"),
    ],
)
def test_groups_that_contradict_themselves(monkeypatch, changes, fault):
    for name, value in {**GROUP, **changes}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=fault):
        is_one_of_several()


def test_one_of_several_or_not(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert not is_one_of_several()
    for name, value in GROUP.items():
        monkeypatch.setenv(name, value)
    assert is_one_of_several()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not is_one_of_several()


def launch(folder: Path, *launcher: str, **changes: object) -> subprocess.Popen:
    """A long run of two processes: by ours, or by another launcher."""
    options = {**TINY, "SOLVER.IMS_PER_BATCH": 4, "SOLVER.MAX_ITER": 100000}
    options.update({"DATASETS.TEST": "()", "OUTPUT_DIR": folder / "out", **changes})
    own = () if launcher else ("--num-processes", "2")
    command = [sys.executable, "-W", "ignore", *launcher, "train_net.py", "--num-gpus", "0", *own]
    command += ["--config-file", str(CONFIG), *flat(options)]
    return subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )


def ranks_of(process: subprocess.Popen, folder: Path) -> list[int]:
    """The processes of a run that has made some iterations."""
    metrics, end = folder / "out" / "metrics.json", time.monotonic() + 100
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < end:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


@pytest.mark.nightly
@pytest.mark.parametrize("launcher", [(), TORCHRUN], ids=["ours", "torchrun"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize("target", ["launcher", "rank 0", "rank 1"])
def test_a_signal_to_any_process_stops_all(data, launcher, number, target):
    process = launch(data, *launcher)
    ranks = ranks_of(process, data)
    assert len(ranks) == 2
    os.kill(process.pid if target == "launcher" else ranks[int(target[-1])], number)
    _, errors = process.communicate(timeout=60)
    if launcher:  # torchrun has codes of its own
        assert process.returncode != 0
    else:
        assert process.returncode == 128 + number
    wait_for_end(ranks)
    saved = torch.load(data / "out" / (data / "out" / "last_checkpoint").read_text())
    assert saved["trainer"]["iteration"] >= 19
    if not (launcher and number == signal.SIGUSR1 and target == "launcher"):  # its shell hears it
        assert f"--resume goes on at {saved['trainer']['iteration'] + 1}:" in errors


def wait_for_end(pids: list[int]) -> None:
    """Also of processes whose parent is gone."""
    end = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < end, "a process goes on"
        time.sleep(0.1)


@pytest.mark.nightly
@pytest.mark.parametrize("target", ["launcher", "rank 0", "rank 1"])
def test_a_process_that_is_killed_ends_all(data, target):
    process = launch(data, **{"SOLVER.CHECKPOINT_PERIOD": 5})
    ranks = ranks_of(process, data)
    os.kill(process.pid if target == "launcher" else ranks[int(target[-1])], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    wait_for_end(ranks)
    if target != "launcher":
        assert process.returncode == 128 + signal.SIGKILL
        assert f"process {target[-1]} of 2 was ended by SIGKILL" in errors
    assert (data / "out" / "last_checkpoint").exists()


@pytest.mark.nightly
def test_the_error_of_a_process_ends_all(data):
    """Of the one process that meets a broken picture; the other says nothing."""
    broken = data / "camvid" / "images" / "train" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    process = launch(data)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 1
    assert f"error: image {broken}" in errors
    assert "Traceback" not in errors
