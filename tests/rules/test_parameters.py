"""Parameters are modified once, and again when they have changed."""
import copy

import pytest
import torch
from rule_cases import deviation, everywhere, make_module, some_relevance
from torch import nn
from zennit.rules import Epsilon, Flat, Gamma, WSquare, ZPlus

from crp.rules.acceleration import accelerate

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def counted():
    """A z+ rule that counts how often it modifies weights."""
    rule, counts = ZPlus(), []
    for modifier in rule.param_modifiers:
        original = modifier.modifier

        def counting(parameter, name, original=original):
            counts.append(name)
            return original(parameter, name)

        modifier.modifier = counting
    return rule, counts


def test_parameters_are_modified_once(conv, image, counted):
    rule, counts = counted
    x = image.requires_grad_()
    with accelerate(everywhere(rule)).context(conv):
        for _ in range(2):
            output = conv(x)
            torch.autograd.grad(output, x, output.detach())
    assert counts.count("weight") == 2 and counts.count("bias") == 1


def add_in_place(module, name):
    with torch.no_grad():
        getattr(module, name).add_(1)


def set_data(module, name):
    getattr(module, name).data = getattr(module, name).data + 1


def set_data_in_freed_memory(module, name):
    parameter = getattr(module, name)
    values = (parameter.data + 1).tolist()
    parameter.data = torch.empty(0, dtype=parameter.dtype)
    parameter.data = torch.tensor(values, dtype=parameter.dtype)


def set_parameter(module, name):
    setattr(module, name, nn.Parameter(getattr(module, name).data + 1))


def load(module, name):
    module.load_state_dict({**module.state_dict(), name: getattr(module, name).data + 1})


def change_statistics(module, name):
    module.running_mean += 1
    module.running_var *= 2


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("change", [add_in_place, set_data, set_data_in_freed_memory, set_parameter, load])
@pytest.mark.parametrize("rule", [ZPlus(), Epsilon(zero_params="bias"), Epsilon(), Gamma(), Flat(), WSquare()])
def test_changed_parameters_are_modified_again(conv, image, rule, change, name):
    check_changes(conv, image, rule, change, name)


@pytest.mark.parametrize("change", [add_in_place, change_statistics])
def test_changed_batch_norm(change):
    check_changes(*make_module("batch norm"), Gamma(), change, "weight")


def check_changes(module, x, rule, change, name):
    x.requires_grad_()
    other, relevances = copy.deepcopy(module), []
    for each, composite in ((module, everywhere(rule)), (other, accelerate(everywhere(rule)))):
        relevances.append([])
        with composite.context(each):
            for _ in range(4):
                output = each(x)
                relevances[-1].append(torch.autograd.grad(output, x, some_relevance(output.detach()))[0])
                change(each, name)
    for expected, relevance in zip(*relevances):
        assert deviation(relevance, expected) < 1e-12
