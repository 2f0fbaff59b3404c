"""Interrupts by real signals, and what they may not leave behind."""
import random
import signal
import time

import torch

from crp.rules import attach, control_flow
from crp.rules.restoring import function_modes


def interrupt_calls(function, state, tries, seed=0):
    """Call a function again and again, each time with a KeyboardInterrupt at a random moment.

    Returns how many calls were interrupted, and ``(error, differences of the state)`` of those that left something.
    """
    durations = [_duration(function) for _ in range(4)][1:]
    numbers, interrupted, leftovers, is_running = random.Random(seed), 0, [], False

    def interrupt(number, frame):
        if is_running:
            raise KeyboardInterrupt

    before, handler = state(), signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(tries):
            signal.setitimer(signal.ITIMER_REAL, numbers.uniform(1e-5, 1.02 * min(durations)))
            try:
                is_running = True
                function()
                is_running = False
            except BaseException as error:  # whose traceback lives on while the state is read, as at a prompt
                is_running = False
                interrupted += 1
                now = state()
                found = {name for name in before if before[name] != now[name]}
                if found or not isinstance(error, KeyboardInterrupt):
                    leftovers.append((error, found))
                    before = now
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    return interrupted, leftovers


def _duration(function):
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def state_of(model, *composites):
    """All of a model and of the thread that rules change, to be compared."""
    modules = list(model.named_modules())
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {
        "hooks": {name: {key: list(value) for key, value in vars(module).items() if "hooks" in key and value}
                  for name, module in modules},
        "attributes": {name: [(key, id(value)) for key, value in vars(module).items() if not isinstance(value, int)]
                       for name, module in modules},
        "numbers": {name: {key: value for key, value in vars(module).items() if isinstance(value, int)}
                    for name, module in modules},
        "parameters": {name: [(key, id(value)) for held in (module._parameters, module._buffers, module._modules)
                              for key, value in held.items()] for name, module in modules},
        "gradients": {name: (tensor.requires_grad, tensor.grad is None) for name, tensor in tensors},
        "memory": {name: (tensor.data_ptr(), tensor.shape, tensor.stride()) for name, tensor in tensors},
        "values": {name: tensor.detach().cpu().numpy().tobytes() for name, tensor in tensors},
        "modes": function_modes(),
        "transforms": torch._C._functorch.get_dynamic_layer_stack_depth(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "use": model in attach._in_use,
        "patches": (len(control_flow._users), len(control_flow._replaced), id(torch._functorch.vmap._flat_vmap)),
        "composites": [len(composite.handles) for composite in composites],
    }
