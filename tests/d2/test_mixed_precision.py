"""The loop in mixed precision on a model of two numbers: scale, clipping, overflow, resuming."""

import copy
import logging
from collections.abc import Callable, Iterator

import pytest
import torch
from detectron2.engine import SimpleTrainer
from torch import Tensor, nn

from mask_former.d2.config import load_config
from mask_former.d2.mixed_precision import MixedPrecisionTrainer
from mask_former.d2.solver import build_optimizer

Loss = Callable[["TwoNumbers"], Tensor]


class TwoNumbers(nn.Module):
    """Two parameters of value 0, and the loss that the batch is."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(()))
        self.b = nn.Parameter(torch.zeros(()))

    def forward(self, loss: Loss) -> dict[str, Tensor]:
        return {"loss_ce": loss(self)}

    def values(self) -> list[float]:
        return [self.a.item(), self.b.item()]


def three_four(model: TwoNumbers) -> Tensor:
    """Its gradient is (3, 4)."""
    return 3 * model.a + 4 * model.b


def overflowing(model: TwoNumbers) -> Tensor:
    """Finite, as is its gradient, but that times the scale is not."""
    return 1e35 * model.a + model.b


def make_optimizer(model: nn.Module, *opts: object) -> torch.optim.Optimizer:
    return build_optimizer(load_config(opts=["SOLVER.BASE_LR", 1.0, *opts]), model)


def clipped_at(norm: float) -> tuple[object, ...]:
    prefix = "SOLVER.CLIP_GRADIENTS"
    kind = (f"{prefix}.ENABLED", True, f"{prefix}.CLIP_TYPE", "full_model")
    return *kind, f"{prefix}.CLIP_VALUE", norm


def make(
    batches: list[Loss], *opts: object, dtype: torch.dtype = torch.float16
) -> MixedPrecisionTrainer:
    model = TwoNumbers()
    plain = SimpleTrainer(model, batches, make_optimizer(model, *opts))
    return MixedPrecisionTrainer(plain, dtype)


def adamw(*batches: Loss) -> list[float]:
    """The numbers after plain steps in float32."""
    model = TwoNumbers()
    optimizer = make_optimizer(model)
    for batch in batches:
        optimizer.zero_grad()
        batch(model).backward()
        optimizer.step()
    return model.values()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_are_in_the_type_and_parameters_are_not(dtype):
    seen = []

    def batch(model: TwoNumbers) -> Tensor:
        product = model.a.expand(2, 2) @ torch.ones(2, 2)
        seen.append(product.dtype)
        return product.float().mean()

    trainer = make([batch], dtype=dtype)
    trainer.train(0, 1)
    assert seen == [dtype]
    assert trainer.model.a.dtype == torch.float32
    assert trainer.model.a.item() == pytest.approx(-1, abs=1e-4)  # Adam's first step is the rate


@pytest.mark.parametrize("optimizer", ["ADAMW", "SGD"])
@pytest.mark.parametrize(("norm", "expected"), [(10.0, [3, 4]), (1.0, [0.6, 0.8])])
def test_clipping_acts_on_true_gradients(optimizer, norm, expected):
    trainer = make([three_four], *clipped_at(norm), "SOLVER.OPTIMIZER", optimizer)
    trainer.train(0, 1)
    assert trainer.grad_scaler.get_scale() > 1000
    gradients = [p.grad.item() for p in trainer.model.parameters()]
    assert gradients == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("opts", [(), clipped_at(1.0)])
def test_an_overflow_leaves_the_step_out_and_training_goes_on(opts):
    trainer = make([overflowing, three_four], *opts)
    before = trainer.grad_scaler.get_scale()
    trainer.train(0, 1)
    assert trainer.model.values() == [0, 0]
    assert trainer.grad_scaler.get_scale() == before / 2
    trainer.train(1, 2)
    assert trainer.model.values() == pytest.approx(adamw(three_four), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_loss_that_is_not_finite_is_an_error_that_names_it(dtype):
    trainer = make([lambda model: model.a * float("nan")], dtype=dtype)
    with pytest.raises(FloatingPointError, match=r"loss_ce.*nan"):
        trainer.train(0, 1)


def test_resuming_is_as_going_on():
    batches = [overflowing, three_four, overflowing, three_four, three_four]
    whole, first, second = make(batches), make(batches), make(batches[2:])
    whole.train(0, 5)
    first.train(0, 2)
    state = copy.deepcopy(first.state_dict())
    assert state["grad_scaler"]["scale"] == 2.0**15
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(state)
    second.train(2, 5)
    assert second.model.values() == whole.model.values()
    assert second.grad_scaler.state_dict() == whole.grad_scaler.state_dict()


def test_states_of_another_precision(caplog):
    half, brain = make([three_four]), make([three_four], dtype=torch.bfloat16)
    assert "grad_scaler" not in brain.state_dict()
    brain.load_state_dict(half.state_dict())
    with caplog.at_level(logging.WARNING):
        half.load_state_dict(brain.state_dict())
    assert "no gradient scale" in caplog.text
    assert half.grad_scaler.get_scale() == 2.0**16


def test_the_data_are_begun_once():
    begun = []

    class Batches:
        def __iter__(self) -> Iterator[Loss]:
            begun.append(True)
            return iter([three_four])

    model = TwoNumbers()
    plain = SimpleTrainer(model, Batches(), make_optimizer(model))
    MixedPrecisionTrainer(plain, torch.bfloat16).train(0, 1)
    assert begun == [True]
    assert model.values() == pytest.approx(adamw(three_four), rel=1e-5)


def test_float16_on_a_cpu_is_told_to_be_slow(caplog):
    make([])
    assert "float16 is many times slower than float32 on a CPU" in caplog.text
