"""The moving average against its formula, and its swap in and out."""

import copy

import pytest
import torch
from torch import nn

from genodiff.errors import UserError
from genodiff.training.ema import ExponentialMovingAverage


def trained(values: list[float], frozen: float = 7.0) -> list[nn.Parameter]:
    """Scalars to average, with a frozen one in front."""
    parameters = [nn.Parameter(torch.tensor(value)) for value in (frozen, *values)]
    parameters[0].requires_grad_(False)
    return parameters


def set_to(parameter: nn.Parameter, value: float) -> None:
    with torch.no_grad():
        parameter.fill_(value)


def test_average_is_the_weighted_sum_of_all_values() -> None:
    _, p = parameters = trained([0.0])
    ema = ExponentialMovingAverage(parameters, decay=0.9, warmup=False)
    values = [1.0, 5.0, -2.0, 4.0]
    for value in values:
        set_to(p, value)
        ema.update()
    expected = sum(0.1 * 0.9 ** (len(values) - 1 - n) * value for n, value in enumerate(values))
    with ema.average_parameters():
        assert float(p.detach()) == pytest.approx(expected)


def test_warmup_takes_the_first_values_with_large_weights() -> None:
    ema = ExponentialMovingAverage(trained([0.0]), decay=0.5)
    decays = []
    for _ in range(20):
        decays.append(ema.next_decay())
        ema.update()
    assert decays[:3] == [2 / 11, 3 / 12, 4 / 13]
    assert decays[-1] == 0.5


def test_parameters_are_swapped_in_and_back_even_after_an_error() -> None:
    frozen, p, q = parameters = trained([1.0, 2.0])
    ema = ExponentialMovingAverage(parameters)
    set_to(p, 3.0)
    with pytest.raises(RuntimeError, match="inside"), ema.average_parameters():
        assert (float(frozen), float(p.detach()), float(q.detach())) == (7.0, 1.0, 2.0)
        raise RuntimeError("inside")
    assert (float(p.detach()), float(q.detach())) == (3.0, 2.0)


def test_resumed_average_continues_bit_for_bit() -> None:
    parameters = trained([1.0, 2.0])
    ema = ExponentialMovingAverage(parameters)
    ema.update()
    state = copy.deepcopy(ema.state_dict())
    resumed = ExponentialMovingAverage(parameters)
    resumed.load_state_dict(state)
    for value in (5.0, -1.0):
        set_to(parameters[1], value)
        ema.update()
        resumed.update()
    one, other = ema.state_dict(), resumed.state_dict()
    assert one["updates"] == other["updates"] == 3
    assert all(map(torch.equal, one["shadow"], other["shadow"]))
    assert state["updates"] == 1  # a state is a copy


def test_low_precision_parameters_are_averaged_in_float32() -> None:
    p = nn.Parameter(torch.tensor(1.0, dtype=torch.bfloat16))
    ema = ExponentialMovingAverage([p], decay=0.999, warmup=False)
    set_to(p, 2.0)
    ema.update()
    assert float(ema.state_dict()["shadow"][0]) == pytest.approx(1.001)
    with ema.average_parameters():
        assert p.dtype == torch.bfloat16


def test_a_state_of_other_parameters_is_refused() -> None:
    state = ExponentialMovingAverage(trained([1.0, 2.0])).state_dict()
    with pytest.raises(
        UserError, match=r"EMA of 2 tensors .* model's 1 trained parameters.*resume"
    ):
        ExponentialMovingAverage(trained([1.0])).load_state_dict(state)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_does_not_average_is_refused(decay: float) -> None:
    with pytest.raises(UserError, match=r"ema decay=.*in \[0, 1\); use"):
        ExponentialMovingAverage(trained([1.0]), decay=decay)
