"""Nothing stays on a model, and rules stand beside other hooks."""
import copy
import gc
import weakref

import pytest
import torch
from rule_cases import COMPOSITES, RULES, deviation, everywhere, make_module, relevance_of, some_relevance
from torch import nn
from torch.utils.checkpoint import checkpoint
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonPlusFlat, NameMapComposite
from zennit.core import Composite, Hook
from zennit.layer import Sum
from zennit.rules import AlphaBeta, Epsilon, Flat, Gamma, Pass, ZPlus

from crp.concepts import ChannelConcept
from crp.hooks import MaskHook
from crp.rules.acceleration import accelerate

pytestmark = pytest.mark.usefixtures("quick")


def test_the_given_composite_is_not_changed(net, model_state):
    data, canonizers = torch.randn(2, 3, 10, 10, dtype=torch.float64), [SequentialMergeBatchNorm()]
    composite = EpsilonPlusFlat(canonizers=canonizers)
    before, state = {**vars(composite)}, model_state(net)
    expected = relevance_of(composite, net, data)
    accelerated = accelerate(composite)
    relevance = relevance_of(accelerated, net, data)
    after = {**vars(composite)}
    assert after.pop("handles") == [] and not after.pop("hook_refs") and composite.canonizers is canonizers
    assert after == {key: before[key] for key in after}
    assert all(not rule.stored_tensors for _, rule in composite.layer_map + composite.first_map)
    assert type(composite.module_map({}, "0", net[0])) is Flat
    assert torch.equal(relevance_of(composite, net, data), expected)
    assert torch.equal(relevance_of(accelerated, net, data), relevance) and deviation(relevance, expected) < 1e-12
    assert model_state(net) == state


def test_nothing_stays_on_the_model(net, model_state):
    state = model_state(net)
    for make in COMPOSITES.values():
        relevance_of(accelerate(make(canonizers=[SequentialMergeBatchNorm()])), net, torch.randn(2, 3, 10, 10).double())
        assert model_state(net) == state


def test_nothing_stays_after_an_exception(net, model_state):
    data, state, composite = torch.randn(2, 3, 10, 10, dtype=torch.float64), model_state(net), EpsilonPlusFlat()
    expected, accelerated = relevance_of(composite, net, data), accelerate(composite)
    with pytest.raises(RuntimeError, match="shape|size"), accelerated.context(net):
        net(torch.randn(2, 3, 14, 14, dtype=torch.float64, requires_grad=True))
    assert model_state(net) == state
    assert deviation(relevance_of(accelerated, net, data), expected) < 1e-12


def test_a_pass_that_failed_does_not_disturb_the_next(double):
    module, x = nn.Linear(4, 3), torch.randn(2, 4, requires_grad=True)
    expected = relevance_of(everywhere(Epsilon()), module, x)
    with accelerate(everywhere(Epsilon())).context(module):
        with pytest.raises(RuntimeError):
            module(torch.randn(2, 5, requires_grad=True))
        output = module(x)
        relevance, = torch.autograd.grad(output, x, some_relevance(output.detach()))
    assert deviation(relevance, expected) < 1e-12


def test_what_a_pass_held_is_freed(conv):
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64, requires_grad=True)
    with accelerate(everywhere(Gamma())).context(conv):
        middle = x * 1
        output = conv(middle)
        seen = weakref.ref(middle), weakref.ref(output)
        torch.autograd.grad(output, x, some_relevance(output.detach()))
        del middle, output
        gc.collect()
        assert [reference() for reference in seen] == [None, None]


def differentiate(relevance, x):
    return torch.autograd.grad(relevance.sum(), x)


def differentiate_with_the_input(relevance, x):
    return torch.autograd.grad((relevance * x).sum(), x)


def propagate(relevance, x):
    relevance.sum().backward()


@pytest.mark.parametrize("start", [torch.ones_like, lambda output: output])
@pytest.mark.parametrize("use", [differentiate, differentiate_with_the_input, propagate])
@pytest.mark.parametrize("rule, module", [(ZPlus(), nn.Linear(4, 3)), (Pass(), nn.ReLU())])
def test_relevance_cannot_be_differentiated_again(rule, module, use, start):
    x = torch.randn(2, 4, requires_grad=True)
    with accelerate(everywhere(rule)).context(module):
        output = module(x)
        with pytest.raises(RuntimeError, match="cannot be differentiated.*use the composite itself"):
            use(*torch.autograd.grad(output, x, start(output), create_graph=True), x)


def test_parameters_get_no_gradients(net):
    with accelerate(EpsilonPlusFlat()).context(net):
        net(torch.randn(2, 3, 10, 10, dtype=torch.float64, requires_grad=True)).sum().backward()
    assert all(parameter.grad is None for parameter in net.parameters())


def test_an_input_without_gradient_leaves_the_module_as_it_is(double):
    module, x = nn.Linear(4, 3), torch.randn(2, 4)
    with accelerate(everywhere(ZPlus())).context(module):
        module(x).sum().backward()
        with torch.no_grad():
            assert torch.equal(module(x.requires_grad_()), nn.functional.linear(x, module.weight, module.bias))
    torch.testing.assert_close(module.weight.grad, x.detach().sum(0).expand(3, 4))


@pytest.mark.parametrize("module, name", [
    (nn.Linear(4, 3), "input"), (nn.Conv1d(4, 3, 1), "input"), (nn.ConvTranspose1d(4, 3, 1), "input"),
    (nn.AvgPool1d(1), "input"), (Sum(), "input"),
], ids=str)
def test_inputs_by_keyword(module, name):
    x = torch.randn(4, 4)
    expected = relevance_of(everywhere(Epsilon()), module, x)
    x.requires_grad_()
    with accelerate(everywhere(Epsilon())).context(module):
        output = module(**{name: x})
        relevance, = torch.autograd.grad(output, x, some_relevance(output.detach()))
    torch.testing.assert_close(relevance, expected)


class Twice(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x):
        return self.second(self.first(x).relu() - .5)


@pytest.mark.parametrize("rule", [Epsilon(), ZPlus(), Gamma(), AlphaBeta()])
@pytest.mark.parametrize("repeated", [False, True])
def test_each_call_has_its_own_input(rule, repeated, double):
    module, x = nn.Linear(4, 4), torch.randn(3, 4)
    other = copy.deepcopy(module)
    other.weight, other.bias = module.weight, module.bias
    expected = relevance_of(everywhere(rule), Twice(module, other), x)
    relevance = relevance_of(accelerate(everywhere(rule), repeated=repeated), Twice(module, module), x)
    assert deviation(relevance, expected) < 1e-12
    assert deviation(relevance_of(everywhere(rule), Twice(module, module), x), expected) > 1e-3


def test_two_passes_in_one_context_can_be_open(conv, image):
    inputs = [image, torch.randn_like(image)]
    expected = [relevance_of(everywhere(Gamma()), conv, x) for x in inputs]
    with accelerate(everywhere(Gamma())).context(conv):
        outputs = [conv(x.requires_grad_()) for x in inputs]
        for x, output, other in zip(inputs, outputs, expected):
            relevance, = torch.autograd.grad(output, x, some_relevance(output.detach()))
            assert deviation(relevance, other) < 1e-12


def test_checkpointed_layers(conv, image):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.last = conv, nn.ReLU(), nn.Conv2d(16, 2, 3).double()

        def forward(self, x):
            return checkpoint(lambda x: self.last(self.relu(self.conv(x))), x, use_reentrant=False)

    rules = {"conv": ZPlus(), "relu": Pass(), "last": Epsilon()}
    composite, model = Composite(lambda context, name, module: rules.get(name)), Model()
    plain = nn.Sequential(conv, model.relu, model.last)
    by_position = Composite(lambda context, name, module: dict(zip("012", rules.values())).get(name))
    expected = relevance_of(by_position, plain, image)
    assert deviation(relevance_of(accelerate(composite), model, image), expected) < 1e-12


@pytest.mark.parametrize("name", [
    "linear", "conv2d", "conv2d, reflect", "transposed conv2d", "batch norm", "average2d", "sum"
])
def test_empty_batches(name):
    module, x = make_module(name)
    for rule in RULES.values():
        assert relevance_of(everywhere(rule), module, x[:0]).shape == x[:0].shape
        assert relevance_of(accelerate(everywhere(rule)), module, x[:0]).shape == x[:0].shape


@pytest.mark.parametrize("rules_first", [False, True])
def test_masks_by_hand(net, rules_first):
    data = torch.randn(2, 3, 10, 10, dtype=torch.float64, requires_grad=True)
    masks = NameMapComposite([(["2"], MaskHook([ChannelConcept.mask(0, [1]), ChannelConcept.mask(1, [2, 3])]))])
    results = []
    for rules in (EpsilonPlusFlat(), accelerate(EpsilonPlusFlat())):
        first, second = (rules, masks) if rules_first else (masks, rules)
        with first.context(net), second.context(net):
            output = net(data)
            results.append(torch.autograd.grad(output, data, some_relevance(output.detach()))[0])
    assert results[0].any() and deviation(*reversed(results)) < 1e-12


class Doubling(Hook):
    def backward(self, module, grad_input, grad_output):
        return tuple(2 * gradient for gradient in grad_input)


@pytest.mark.parametrize("rules_first", [False, True])
def test_other_hooks_of_zennit_beside_the_rules(net, rules_first):
    data = torch.randn(2, 3, 10, 10, dtype=torch.float64, requires_grad=True)
    doubling, results = NameMapComposite([(["2"], Doubling())]), []
    for rules in (EpsilonPlusFlat(), accelerate(EpsilonPlusFlat())):
        first, second = (rules, doubling) if rules_first else (doubling, rules)
        with first.context(net), second.context(net):
            output = net(data)
            results.append(torch.autograd.grad(output, data, some_relevance(output.detach()))[0])
    assert deviation(*reversed(results)) < 1e-12


@pytest.mark.parametrize("before", [False, True])
def test_forward_hooks_of_the_user_read_relevance(net, before):
    data, results = torch.randn(2, 3, 10, 10, dtype=torch.float64, requires_grad=True), []
    for composite in (EpsilonPlusFlat(), accelerate(EpsilonPlusFlat())):
        seen = []

        def read(module, args, output):
            output.register_hook(seen.append)

        handle = net[2].register_forward_hook(read) if before else None
        with composite.context(net):
            handle = handle or net[2].register_forward_hook(read)
            output = net(data)
            torch.autograd.grad(output, data, some_relevance(output.detach()))
        handle.remove()
        results.append(seen)
    (expected,), (relevance,) = results
    assert deviation(relevance, expected) < 1e-12
