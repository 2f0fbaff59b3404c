"""What is replaced by accelerated rules, and what keeps the hooks of zennit."""
import pytest
import torch
from rule_cases import COMPOSITES, assert_equals_zennit, deviation, everywhere, relevance_of, relevance_of_rows
from torch import nn
from torch.nn.utils import parametrizations, prune
from zennit.composites import EpsilonPlus
from zennit.core import Composite, ParamMod
from zennit.rules import Epsilon, Flat, Gamma, Pass, ReLUGuidedBackprop, WSquare, ZBox, ZPlus

from crp.model.rows import is_shared
from crp.rules.acceleration import accelerate
from crp.rules.replacement import SharedMaxPool

pytestmark = pytest.mark.usefixtures("quick")


def is_kept(rule, module):
    """Whether a rule remains zennit's on a module."""
    return accelerate(Composite(lambda *_: rule)).module_map({}, "", module) is rule


class OwnEpsilon(Epsilon):
    pass


class OwnLinear(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class OwnPool(nn.MaxPool2d):
    pass


class TwoOutputs(nn.ReLU):
    def forward(self, x):
        return super().forward(x), x


def test_changed_rules_and_modules_keep_the_hooks_of_zennit():
    changed = Epsilon()
    changed.gradient_mapper = lambda relevance, outputs: relevance
    reducing = ZPlus()
    reducing.reducer = lambda inputs, gradients: inputs[0]
    modifying = ZPlus()
    modifying.input_modifiers = [lambda x: x, lambda x: x]
    finishing = WSquare()
    finishing.output_modifiers = [lambda output: 2 * output]
    linear, own_forward = nn.Linear(4, 3), nn.Linear(4, 3)
    own_forward.forward = lambda x: x
    for rule in (OwnEpsilon(), changed, reducing, modifying, finishing):
        assert is_kept(rule, linear)
    for module in (
        OwnLinear(4, 3), own_forward, parametrizations.weight_norm(nn.Linear(4, 3)),
        parametrizations.spectral_norm(nn.Conv2d(2, 3, 2)), prune.l1_unstructured(
            nn.Linear(4, 3), "weight", 2
        ), nn.BatchNorm1d(4), nn.BatchNorm2d(4, track_running_stats=False).eval(), nn.Embedding(3, 4), nn.LayerNorm(4),
        nn.Bilinear(2, 2, 3), nn.LazyLinear(3), nn.Identity(), nn.ReLU(),
    ):
        for rule in (Epsilon(), ZPlus(), Gamma(), WSquare(), Flat()):
            assert is_kept(rule, module), (rule, module)
    assert is_kept(Pass(), nn.MultiheadAttention(4, 2)) and is_kept(Pass(), linear) and is_kept(Pass(), nn.MaxPool2d(2))
    assert is_kept(Pass(), TwoOutputs())
    assert is_kept(ReLUGuidedBackprop(), nn.ReLU()) and is_kept(ZBox(-1., 1.), nn.AvgPool2d(2)) and not is_kept(
        ZBox(-1., 1.), linear
    )


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_the_old_weight_norm_keeps_the_hooks_of_zennit():
    assert is_kept(ZPlus(), nn.utils.weight_norm(nn.Linear(4, 3)))


@pytest.mark.parametrize("module", [
    nn.MaxPool1d(2), nn.MaxPool2d(2, return_indices=True), nn.AdaptiveMaxPool2d(2), OwnPool(2), nn.Dropout(), nn.ReLU(),
], ids=str)
def test_modules_without_rule_stay_without(module):
    assert accelerate(everywhere(None)).module_map({}, "", module) is None


@pytest.mark.parametrize("make", [
    lambda: OwnLinear(4, 3), lambda: parametrizations.weight_norm(nn.Linear(4, 3)),
    lambda: parametrizations.orthogonal(nn.Linear(4, 3)), lambda: nn.BatchNorm1d(4),
], ids=["subclass", "weight norm", "orthogonal", "training"])
def test_relevance_through_what_is_not_replaced(make, double):
    model, rule = nn.Sequential(nn.Linear(4, 4), make(), nn.ReLU()), Epsilon()
    assert is_kept(rule, model[1])
    composite = Composite(lambda context, name, module: rule if name in ("0", "1") else None)
    assert_equals_zennit(composite, model, torch.randn(3, 4))


@pytest.mark.parametrize("rule", [OwnEpsilon(.3), ReLUGuidedBackprop()])
def test_relevance_by_a_rule_that_is_not_replaced(rule, double):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    rules = {"0": ZPlus(), "1": rule, "2": rule if isinstance(rule, Epsilon) else Epsilon()}
    assert_equals_zennit(Composite(lambda context, name, module: rules.get(name)), model, torch.randn(3, 4))


def test_relevance_through_attention(double):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.attention = nn.Linear(4, 4), nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            x = self.before(x)
            return self.attention(x, x, x)[0]

    rules = {"before": Epsilon(), "attention.out_proj": Epsilon()}
    composite = Composite(lambda context, name, module: rules.get(name))
    assert_equals_zennit(composite, Attention(), torch.randn(2, 3, 4))


def test_a_rule_with_other_parameter_modifiers(conv, image):
    rule = Epsilon()
    for modifier in (
        lambda parameter, name: 2 * parameter, ParamMod(lambda parameter, name: 3 * parameter, param_keys=["weight"]),
        ParamMod(lambda parameter, name: parameter - 1, param_keys=["bias"], zero_params="bias"),
        ParamMod(lambda parameter, name: parameter + 1, param_keys=[]),
    ):
        rule.param_modifiers = [modifier]
        assert_equals_zennit(everywhere(rule), conv, image)


def test_composites_that_register_in_their_own_way_are_returned():
    class Own(EpsilonPlus):
        def register(self, module):
            super().register(module)

    assert accelerate(composite := Own()) is composite
    assert accelerate(composite := EpsilonPlus()) is not composite


def test_accelerating_twice_changes_nothing(net):
    data = torch.randn(2, 3, 10, 10, dtype=torch.float64)
    for make in COMPOSITES.values():
        once = accelerate(make())
        assert torch.equal(relevance_of(accelerate(once), net, data), relevance_of(once, net, data))


@pytest.mark.parametrize("pool, shape", [
    (nn.MaxPool2d(2), (3, 6, 7)), (nn.MaxPool2d(3, 1), (3, 6, 7)), (nn.MaxPool2d(3, 2, 1), (3, 6, 7)),
    (nn.MaxPool2d(2, 1, 0, 2), (3, 6, 7)), (nn.MaxPool2d((3, 2), (1, 2), (1, 0), (2, 1)), (3, 6, 7)),
    (nn.MaxPool2d(3, 2, ceil_mode=True), (3, 6, 8)), (nn.MaxPool3d(2), (2, 4, 5, 6)),
    (nn.MaxPool3d((3, 2, 2), (1, 2, 1), (1, 0, 1), (1, 2, 1), ceil_mode=True), (2, 4, 5, 6)),
], ids=str)
@pytest.mark.parametrize("change", [lambda x: x, torch.relu, torch.round])
def test_shared_max_pooling(pool, shape, change):
    sample = change(torch.randn(1, *shape).double())
    expected_output, transpose = torch.func.vjp(pool, sample.repeat(5, *[1] * len(shape)))
    starts = torch.randn_like(expected_output), torch.randn_like(expected_output[:1]).expand_as(expected_output)
    for start in starts:
        x = sample.clone().requires_grad_().expand(5, *shape)
        output, relevance = relevance_of_rows(accelerate(everywhere(None)), pool, x, start)
        assert torch.equal(output, expected_output) and deviation(relevance, transpose(start)[0]) < 1e-14
        assert is_shared(output) and is_shared(relevance) == (start is starts[1])
    assert type(accelerate(everywhere(None)).module_map({}, "", pool)) is SharedMaxPool


def test_max_pooling_of_other_batches_is_left_to_autograd():
    x = torch.randn(2, 3, 6, 6, requires_grad=True)
    with accelerate(everywhere(None)).context(nn.MaxPool2d(2)) as pool:
        assert "MaxPool" in pool(x).grad_fn.name()


@pytest.mark.parametrize("rule, module", [(ZPlus(), nn.Linear(4, 3)), (Pass(), nn.ReLU())])
def test_accelerated_rules_cannot_be_inactive(rule, module):
    x, composite = torch.randn(2, 4, requires_grad=True), accelerate(everywhere(rule))
    with composite.context(module):
        output = module(x)
        with composite.inactive(), pytest.raises(RuntimeError, match="cannot be inactive: use the composite itself"):
            torch.autograd.grad(output.sum(), x, retain_graph=True)
        torch.autograd.grad(output.sum(), x)
