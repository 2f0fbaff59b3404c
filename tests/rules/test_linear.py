"""Linear operations are those of their modules."""
import pytest
import torch
from rule_cases import MODULES, deviation, make_module, some_relevance

from crp.rules.linear import linear_operation, share_uniform

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", MODULES)
def test_linear_operations_are_their_modules(name):
    module, x = make_module(name)
    operation = linear_operation(module.requires_grad_(False))
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    output, transpose = torch.func.vjp(module, x)
    start, zero_output = some_relevance(output), module(torch.zeros_like(x))
    assert torch.equal(operation.forward(x, weight, bias), output)
    assert deviation(operation.transpose(start, weight, x.shape), transpose(start)[0]) < 1e-14
    assert operation.takes(x) == ("one sample" not in name and name not in (
        "linear on a vector", "sum of channels", "sum of samples"
    ))
    at_zero = operation.at_zero(x, weight, bias)
    torch.testing.assert_close(zero_output, zero_output * 0 if at_zero is None else at_zero.expand_as(output))


def test_share_uniform():
    uniform, almost = torch.full((3, 2, 2, 2), .5), torch.full((3, 2, 2, 2), .5)
    almost[1, 1, 0, 1] = .4
    assert share_uniform(uniform).stride()[:2] == (0, 0) and torch.equal(share_uniform(uniform), uniform)
    for other in (almost, torch.full((3, 2), .5), torch.full((3,), .5)):
        assert share_uniform(other) is other
