"""Fixtures that several test files share."""
import gc
import os

import matplotlib
import pytest
import torch

matplotlib.use("Agg")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # else umap starts threads, and scikit-learn has as many thereafter
pytest.register_assert_rewrite(
    "inputs_of_any_kind", "networks_by_hand", "operations_by_contribution", "rule_cases", "small_sweeps",
    "visualizations",
)


def pytest_collection_finish():
    """What imports and the collection made stays for the session: the garbage collector need not look at it again."""
    gc.collect()
    gc.freeze()


def bytes_of(tensor):
    return tensor.detach().flatten().view(torch.uint8).numpy().tobytes()


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
            name: (id(value), value.requires_grad, value.grad, bytes_of(value))
            for name, value in model.named_parameters()
        }
        buffers = {name: (id(value), bytes_of(value)) for name, value in model.named_buffers()}
        return modules, parameters, buffers

    return describe


@pytest.fixture(autouse=True)
def fixed_seed():
    """Every test starts with the same random numbers."""
    torch.default_generator.manual_seed(0)  # torch.manual_seed looks at the stack for each kind of accelerator
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)


@pytest.fixture(scope="module")
def quick():
    """Do not wait for the disk, nor for threads, which small models do not need."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
    torch.set_num_threads(threads)
