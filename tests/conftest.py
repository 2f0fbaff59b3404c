"""Fixtures that several test files share."""
import pytest
import torch


@pytest.fixture
def model_state():
    """A function that lists what an attribution could leave on a model: hooks, modules, parameters, buffers, modes."""

    def describe(model):
        modules = {
            name: (
                type(module), module.training, sorted(vars(module)),
                *(len(value) for key, value in sorted(vars(module).items()) if "hooks" in key and value is not None),
            )
            for name, module in model.named_modules()
        }
        parameters = {
            name: (id(value), value.requires_grad, value.grad, value.detach().flatten().tolist())
            for name, value in model.named_parameters()
        }
        buffers = {name: (id(value), value.flatten().tolist()) for name, value in model.named_buffers()}
        return modules, parameters, buffers

    return describe


@pytest.fixture(autouse=True)
def fixed_seed():
    """Every test starts with the same random numbers."""
    torch.manual_seed(0)
