"""Memory, FLOPs and rates by hand, and sides in processes of their own."""

import mmap

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import measure


def test_memory_is_the_peak_above_the_start() -> None:
    kept = torch.zeros(2**18)  # 1 MiB that is there before

    def work() -> torch.Tensor:
        first = torch.zeros(3 * 2**18)
        second = torch.ones(2 * 2**18)
        del first
        return kept.sum() + second.sum() + torch.zeros(2**18).sum()

    assert measure.peak_mib(work) == pytest.approx(5, abs=0.01)


def test_the_rate_is_the_best_of_five(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.5, 0.25, 2.0, 0.5, 0.5])
    monkeypatch.setattr(measure, "seconds", lambda work: (work(), next(times))[1])
    with FlopCounterMode(display=False) as counter:
        rate = measure.matrix_rate(torch.float32)
    assert rate == counter.get_total_flops() / 5 / 0.25


def test_a_run_counts_time_and_new_pages() -> None:
    def work() -> None:
        with mmap.mmap(-1, 2**25) as pages:
            pages[::4096] = bytes(2**13)

    found = measure.timed(work)
    assert 0 < found["processor ms"] < 10 * found["ms"] + 100
    assert found["faults"] >= 2**25 / 2**21  # at least one a huge page
    assert found["resident MiB"] > 32


def test_what_is_inspected() -> None:
    left = torch.ones(64, 32)
    query = torch.randn(2, 4, 5, 8)
    compiled = torch.compile(lambda x: x @ x.mT)

    def work() -> list[torch.Tensor]:
        compiled(query)
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
        return [left @ left.T, -left.sum().cpu()]

    found = measure.inspected(work, torch.float32)
    attention = 2 * (2 * 2 * 4 * 5 * 5 * 8)
    assert found["GFLOPs"] * 1e9 == pytest.approx(2 * 64 * 64 * 32 + 1.5 * attention)
    assert found["magnitudes"] == [32, 64 * 32]
    assert found["reads"] == 1
    assert found["live MiB"] > 64 * 64 * 4 / 2**20
    assert found["rate"] > 0


def test_sides_run_in_their_own_processes_and_agree() -> None:
    reference, dense, points = measure.compare("criterion/size=32", rounds=2)
    assert (reference["side"], dense["side"], points["side"]) == ("reference", "dense", "points")
    assert reference["ms ratio"] == reference["live ratio"] == 1
    assert 0 < dense["difference"] < 1e-4
    assert dense["reads"] == 1
    assert reference["reads"] >= 6 * 2  # the costs of each layer and image
    assert min(dense[key] for key in ("ms", "processor ms", "GFLOPs", "of rate")) > 0


def test_a_side_that_cannot_run_is_named() -> None:
    with pytest.raises(
        RuntimeError, match=r"criterion/colour=3.*reference.*its process ended with 1"
    ):
        measure.compare("criterion/colour=3")


def test_results_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        """Answers as a side would, whose result has another magnitude for each name."""

        def __init__(self, _: str, name: str, __: int) -> None:
            self.process = self
            self.value = float(len(name))

        def ask(self, what: str) -> measure.Row:
            if what == "run":
                return {"ms": 1.0, "processor ms": 1.0}
            return {"live MiB": 0.0, "GFLOPs": 1.0, "rate": 1.0, "magnitudes": [self.value]}

        def kill(self) -> None: ...

        def communicate(self) -> None: ...

    monkeypatch.setattr(measure, "Side", Fake)
    with pytest.raises(RuntimeError, match=r"coco: dense and reference differ by 0\.44"):
        measure.compare("criterion/coco")
    rows = measure.compare("criterion/coco/bfloat16")  # whose digits are few
    assert rows[1]["difference"] == pytest.approx(4 / 9)
    assert rows[1]["live ratio"] is None
