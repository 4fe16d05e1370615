"""Runs that are stopped, killed or diverge: what is saved, what is said, and how they go on."""

import logging
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode

from mask_former.d2.checkpoint import Diverged
from mask_former.d2.errors import InputError
from mask_former.d2.run.interruption import Stopped, describe_divergence
from mask_former.d2.run.randomness import set_deterministic
from mask_former.d2.trainer import Trainer
from mask_former.d2.weights.record import read_record
from tests.d2.run.runs import At, assert_equal, run, saved
from tests.small_runs import draw_images, tiny_cfg

RUN = {"SOLVER.MAX_ITER": 6, "SOLVER.CHECKPOINT_PERIOD": 2, "DATASETS.TEST": "()"}
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Iterator[Path]:
    """With one thread, for other threads do not survive a fork, and their number rounds."""
    folder = tmp_path_factory.mktemp("data")
    draw_images(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _datasets(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))


def config(folder: Path, **changes: object) -> CfgNode:
    options = {key.replace("__", "."): value for key, value in changes.items()}
    return tiny_cfg(folder, {**RUN, **options})


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data: Path) -> dict:
    """What a run saves that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(data))
        run(config(folder))
    return saved(folder)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
def test_workers_change_nothing(tmp_path, whole, workers):
    run(config(tmp_path, DATALOADER__NUM_WORKERS=workers))
    assert_equal(saved(tmp_path), whole)


@pytest.mark.parametrize(
    ("number", "iteration", "workers"),
    [(signal.SIGTERM, 3, 1), (signal.SIGINT, 0, 0), (signal.SIGUSR1, 4, 1)],
)
def test_a_signal_stops_after_the_iteration_and_nothing_changes(
    tmp_path, whole, number, iteration, workers
):
    cfg = config(tmp_path, DATALOADER__NUM_WORKERS=workers)
    before = [signal.getsignal(s) for s in SIGNALS]
    with pytest.raises(Stopped, match=number.name) as caught:
        run(cfg, At(iteration, lambda _: signal.raise_signal(number)))
    assert caught.value.number == number
    assert caught.value.together
    assert f"--resume goes on at {iteration + 1}:" in caught.value.__notes__[0]
    assert [signal.getsignal(s) for s in SIGNALS] == before
    interrupted = saved(tmp_path, "model_interrupted_rank0.pth")
    assert interrupted["trainer"]["iteration"] == iteration
    run(cfg, resume=True)
    assert_equal(saved(tmp_path), whole)


def test_a_resumed_run_writes_down_the_seed_that_it_has(tmp_path):
    run(config(tmp_path, SOLVER__MAX_ITER=1))
    run(config(tmp_path, SOLVER__MAX_ITER=2, SEED=7), resume=True)
    record = read_record(str(tmp_path / "out" / "model_final.pth"))
    assert CfgNode.load_cfg(record.config).SEED == 1


def test_a_failure_in_an_iteration_leaves_no_trace(tmp_path, whole):
    """Neither in the statistics of norms nor in the draws of the iteration."""

    def fail(trainer: Trainer) -> None:
        trainer._trainer.optimizer.step = lambda: 1 / 0  # after the forward and the backward

    with pytest.raises(ZeroDivisionError):
        run(config(tmp_path), At(3, fail))
    run(config(tmp_path), resume=True)
    assert_equal(saved(tmp_path), whole)


# Whatever a run can have beside its weights.
EVERYTHING = {
    "SOLVER.MAX_ITER": 24,
    "SOLVER.CHECKPOINT_PERIOD": 3,
    "SOLVER.CHECKPOINTS_KEPT": 2,
    "SOLVER.EMA_DECAY": 0.9,
    "SOLVER.ACCUMULATE": 2,
    "SOLVER.IMS_PER_BATCH": 4,
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.CROP.SIZE": "(64, 64)",
    "INPUT.SCALE_JITTER": "[0.5, 1.5]",
    "INPUT.CROP.TYPE": "absolute",
    "DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
    "DATALOADER.REPEAT_THRESHOLD": 0.9,
}


def _train(folder: Path, options: dict) -> None:
    logging.disable()
    try:
        run(config(folder, **options), resume=True)
    except Stopped as stopped:
        os._exit(128 + stopped.number)


def kill(folder: Path, options: dict, number: int, delay: float, in_saving: bool) -> int:
    """Runs, and sends a signal after a while, or a while after a file begins; the exit code."""
    process = multiprocessing.get_context("fork").Process(target=_train, args=(folder, options))
    process.start()
    while in_saving and process.is_alive() and not list((folder / "out").glob("*.unfinished")):
        time.sleep(0.0005)
    time.sleep(delay)
    os.kill(process.pid, number)
    process.join(60)
    return process.exitcode


def test_killed_whenever_and_nothing_changes(tmp_path, whole):
    """With KILL, at five moments of one run: as a file is written, and a while after."""
    for moment in range(5):
        kill(tmp_path, {}, signal.SIGKILL, 0.05 * moment, in_saving=True)
    run(config(tmp_path), resume=True)
    assert_equal(saved(tmp_path), whole)
    assert not list((tmp_path / "out").glob("*.unfinished"))


@pytest.mark.nightly
@pytest.mark.parametrize("workers", [0, 1])
def test_twenty_kills_at_random_moments(tmp_path, workers):
    """TERM, INT and KILL, in saving too; as many runs as they need, all with one result."""
    options = {**EVERYTHING, "DATALOADER.NUM_WORKERS": workers}
    start = time.monotonic()
    assert kill(tmp_path / "whole", options, 0, 0, in_saving=False) == 0
    seconds = time.monotonic() - start
    draws, folder, runs, codes = random.Random(workers), tmp_path / "0", 0, []
    for number in (7 * [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])[:20]:
        in_saving = draws.random() < 0.4
        delay = draws.uniform(0, 0.02 if in_saving else 0.6 * seconds)
        codes.append(kill(folder, options, number, delay, in_saving))
        if codes[-1] == 0:  # it was complete before
            assert_equal(saved(folder), saved(tmp_path / "whole"))
            runs, folder = runs + 1, tmp_path / str(runs + 1)
    run(config(folder, **options), resume=True)
    assert_equal(saved(folder), saved(tmp_path / "whole"))
    assert not list((folder / "out").glob("*.unfinished"))
    print(f"{len(codes)} kills of {runs + 1} runs: {dict(Counter(codes))}")


def test_a_signal_in_an_evaluation_stops_at_once(tmp_path, monkeypatch):
    evaluated = []

    def test(cls: type, cfg: CfgNode, model: torch.nn.Module) -> dict:
        signal.raise_signal(signal.SIGTERM)
        evaluated.append(True)
        return {}

    monkeypatch.setattr(Trainer, "test", classmethod(test))
    cfg = config(tmp_path, TEST__EVAL_PERIOD=3)
    with pytest.raises(Stopped) as caught:
        run(cfg)
    assert not evaluated
    assert "--resume goes on at 3:" in caught.value.__notes__[0]


def test_a_signal_in_the_last_iteration(tmp_path, whole):
    with pytest.raises(Stopped) as caught:
        run(config(tmp_path), At(5, lambda _: signal.raise_signal(signal.SIGTERM)))
    assert caught.value.__notes__ == ["training is complete; --eval-only evaluates it"]
    assert_equal(saved(tmp_path), whole)


def poison(trainer: Trainer) -> None:
    with torch.no_grad():
        trainer.model.sem_seg_head.predictor.query_embed.weight.fill_(float("nan"))


def test_a_run_that_diverges_says_so_and_keeps_the_last_good_file(tmp_path, whole):
    cfg = config(tmp_path)
    with pytest.raises(
        Diverged, match=r"diverged: in iteration 3 .*lower SOLVER\.BASE_LR"
    ) as caught:
        run(cfg, At(3, poison))
    assert "--resume goes on at 2:" in caught.value.__notes__[0]
    assert (tmp_path / "out" / "last_checkpoint").read_text() == "model_0000001.pth"
    run(cfg, resume=True)
    assert_equal(saved(tmp_path), whole)


def test_which_loss_is_not_finite():
    losses = {"loss_ce": torch.tensor(1.0), "loss_dice_2": torch.tensor(float("inf"))}
    text = describe_divergence(losses, 7, 0.5, ValueError("unused"))
    assert text.startswith("the training has diverged: in iteration 7 loss_dice_2 is inf; lower")
    assert "(now 0.5)" in text
    assert "in iteration 7 told;" in describe_divergence({}, 7, 0.5, ValueError("told"))


def test_nothing_is_tagged_without_a_complete_iteration(tmp_path):
    def fail(_: Trainer) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError) as caught:
        run(config(tmp_path), At(0, fail))
    assert caught.value.__notes__ == ["training ended in iteration 0; nothing of it is saved"]
    assert not (tmp_path / "out" / "last_checkpoint").exists()


def test_operations_that_are_not_deterministic(tmp_path):
    def put(trainer: Trainer) -> None:
        where = torch.tensor([0])
        trainer.model.register_forward_hook(lambda *_: torch.zeros(2).put_(where, torch.ones(1)))

    wanted = {"SOLVER__DETERMINISTIC": True}
    try:
        run(config(tmp_path / "without", SOLVER__MAX_ITER=2, **wanted))
        with pytest.raises(InputError, match=r"^SOLVER\.DETERMINISTIC is True, but put_ does not"):
            run(config(tmp_path, **wanted), At(1, put))
    finally:
        set_deterministic(False)
