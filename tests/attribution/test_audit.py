import math
import warnings

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional
from zennit.composites import EpsilonPlus, EpsilonPlusFlat, GuidedBackprop
from zennit.core import Composite
from zennit.rules import AlphaBeta, Epsilon, Flat, Gamma, Pass, WSquare, ZBox, ZPlus
from zennit.torchvision import ResNetCanonizer

from crp.attribution import CondAttribution
from crp.composites import LanguageModel

RULES = [Epsilon(.1), ZPlus(.1), AlphaBeta(3, 2, .1), Gamma(.5, .1), ZBox(-1., 2., .1), WSquare(.1), Flat(.1)]


def for_types(rule, *types):
    return Composite(lambda context, name, module: rule if isinstance(module, types) else None)


class Between(nn.Module):
    """A function between two linear layers."""

    def __init__(self, function, width=6, head=None):
        super().__init__()
        self.first, self.function = nn.Linear(5, 6, bias=False), function
        self.head = nn.Linear(width, 3, bias=False) if head is None else head

    def forward(self, x):
        return self.head(self.function(self.first(x)))


@pytest.fixture
def x():
    return torch.randn(4, 5, dtype=torch.double)


def balance_of(audit, operation):
    found = [balance for balance in audit.operations if operation in balance.operation]
    assert len(found) == 1
    return found[0]


def resnet():
    torch.manual_seed(1)
    model = torchvision.models.resnet18().eval()
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def test_residual_additions_double_relevance_and_zennits_canonizer_mends_them():
    model, images = resnet(), torch.randn(2, 3, 64, 64)
    audit = CondAttribution(model, functional=False).audit(images, EpsilonPlus())
    assert audit.total == pytest.approx(256, rel=1e-3)
    assert sorted(fault.module for fault in audit.faults) == [f"layer{i}.{j}" for i in range(1, 5) for j in range(2)]
    for fault in audit.faults:
        assert fault.operation.endswith("add") and fault.factor == pytest.approx(2, rel=1e-3)
        assert fault.source.startswith("resnet.py:")
    mended = CondAttribution(model).audit(images, EpsilonPlus(canonizers=[ResNetCanonizer()]))
    assert mended.total == pytest.approx(1, abs=1e-3) and not mended.faults


@pytest.mark.parametrize("function, derivative", [
    (functional.gelu, lambda z: torch.func.vmap(torch.func.grad(functional.gelu))(z.flatten()).view(z.shape)),
    (lambda z: z * 2, lambda z: torch.full_like(z, 2)),
    (lambda z: z / 4, lambda z: torch.full_like(z, 1 / 4)),
    (torch.sigmoid, lambda z: torch.sigmoid(z) * (1 - torch.sigmoid(z))),
])
@pytest.mark.parametrize("accelerate", [True, False])
def test_an_operation_without_rule_sends_its_gradient(x, function, derivative, accelerate):
    model = Between(function).double()
    attribution = CondAttribution(model, accelerate=accelerate, functional=False)
    audit = attribution.audit(x, EpsilonPlus(), [{"y": [1]}])
    z = model.first(x)
    relevance = function(z) * model.head.weight[1]  # by Epsilon, in units of the output
    outputs = relevance.sum(1, keepdim=True)
    relevance = relevance / (outputs + 1e-6 * torch.where(outputs >= 0, 1, -1))
    fault, = audit.faults
    assert fault.arriving == pytest.approx(relevance.sum().item() / 4)
    assert fault.sent == pytest.approx((relevance * derivative(z)).sum().item() / 4)
    assert fault.magnitude == pytest.approx(relevance.abs().sum().item() / 4)
    assert fault.source.startswith("test_audit.py:")


def test_layer_norm_sends_nothing_by_its_gradient(x):
    audit = CondAttribution(Between(nn.LayerNorm(6)).double(), functional=False).audit(x, EpsilonPlus())
    fault, = audit.faults
    assert fault.operation == "LayerNorm (layer_norm)" and fault.module == "function"
    assert abs(fault.factor) < 1e-3 and fault.arriving == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("function, width", [
    (functional.relu, 6), (lambda z: torch.cat([z, z * 0], 1), 12), (lambda z: torch.cat([z[:, :2], z[:, 2:]], 1), 6),
    (lambda z: z.view(-1, 2, 3).transpose(1, 2).flatten(1), 6), (lambda z: z - 0.5, 6), (lambda z: z.clone(), 6),
    (lambda z: torch.stack(list(z.unbind(1)), 1), 6), (nn.BatchNorm1d(6), 6), (nn.ReLU(), 6), (nn.Dropout(), 6),
    (lambda z: functional.relu(z, inplace=True), 6),
])
def test_what_conserves_relevance_is_no_fault(x, function, width):
    model = Between(function, width).double().eval()
    audit = CondAttribution(model, functional=False).audit(x, EpsilonPlus())
    assert not audit.faults and audit.total == pytest.approx(1, abs=1e-4)
    assert audit.table() == "" and "conserve relevance" in str(audit)


def test_contributions_are_those_of_each_operation_alone(x):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(5, 6, bias=False), nn.Linear(6, 3, bias=False)

        def forward(self, x):
            h = self.first(x)
            return self.head(h * 3 + h.exp().log())

    audit = CondAttribution(Shared().double(), functional=False).audit(x, EpsilonPlus())
    assert balance_of(audit, "add").factor == pytest.approx(2)
    assert balance_of(audit, "mul").factor == pytest.approx(3)
    assert balance_of(audit, "mul").arriving + balance_of(audit, "log").arriving == pytest.approx(2, abs=1e-3)
    first = next(balance for balance in audit.operations if balance.module == "first")
    sent = sum(balance_of(audit, operation).sent for operation in ("mul", "exp"))
    assert first.arriving == pytest.approx(sent) and first not in audit.faults


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("accelerate", [True, False])
@pytest.mark.parametrize("make, shape", [
    (lambda: nn.Linear(5, 3), (4, 5)),
    (lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Flatten()), (4, 2, 3, 3)),
])
def test_biases_and_stabilizers_account_for_what_rules_do_not_send(rule, accelerate, make, shape):
    model = make().double().eval()
    data = torch.randn(shape, dtype=torch.double)
    attribution, composite = CondAttribution(model, accelerate=accelerate), for_types(rule, nn.Linear, nn.Conv2d)
    audit = attribution.audit(data, composite, [{"y": [1]}])
    balance = next(balance for balance in audit.operations if balance.rule == type(rule).__name__)
    assert abs(balance.arriving - 1) < 1e-12
    assert balance.imbalance == pytest.approx(0, abs=1e-10)
    assert abs(balance.sent - 1) > 1e-4 and balance.sunk == pytest.approx(1 - audit.total)
    assert audit.accounted == pytest.approx(1)


def test_biases_and_stabilizers_of_epsilon_by_its_formula(x):
    layer = nn.Linear(5, 3).double()
    audit = CondAttribution(layer).audit(x, for_types(Epsilon(.1), nn.Linear), [{"y": [2]}])
    z = layer(x)[:, 2]
    stabilized = z + .1 * z.sign()
    assert audit.sinks["biases"] == pytest.approx((layer.bias[2] / stabilized).mean().item())
    assert audit.sinks["stabilizers"] == pytest.approx((1 - z / stabilized).mean().item())
    assert audit.total == pytest.approx(((x * layer.weight[2]).sum(1) / stabilized).mean().item())


def test_parameters_that_enter_as_data_are_sinks():
    class WithToken(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.head = nn.Parameter(torch.rand(1, 4)), nn.Linear(9, 3, bias=False)

        def forward(self, x):
            return self.head(torch.cat([self.token.expand(len(x), -1), x], 1))

    model, x = WithToken().double(), torch.rand(2, 5, dtype=torch.double)
    audit = CondAttribution(model).audit(x, EpsilonPlus(), [{"y": [0]}])
    shares = (model.token * model.head.weight[0, :4]).sum() / model(x)[:, 0]
    assert audit.sinks["parameters"] == pytest.approx(shares.mean().item(), rel=1e-4)
    assert not audit.faults and model.token.grad is None and model.token.requires_grad


def test_operations_that_write_to_tensors(x):
    def write(z):
        z = z.clone()
        z[:, 0] = z[:, 1] * 2
        z += 1
        z.mul_(3)
        return z

    audit = CondAttribution(Between(write).double(), functional=False).audit(x, EpsilonPlus())
    assert {round(fault.factor, 6) for fault in audit.faults} == {2, 3}
    assert sorted(fault.operation for fault in audit.faults) == ["mul", "mul"]


@pytest.mark.parametrize("write", [
    lambda y, x: y.add_(x), lambda y, x: y.relu_(), lambda y, x: y.masked_fill_(y > .5, 0.),
    lambda y, x: y.__setitem__((slice(None), slice(2)), x[:, :2]), lambda y, x: y.__setitem__((0, 0), 1.),
    lambda y, x: y[:, 1:].add_(3.), lambda y, x: y.mT.add_(x.mT),
])
@pytest.mark.parametrize("show", [lambda z: z[:, :6], lambda z: z[:, 1:7], lambda z: z.view(len(z), 6, 2)[..., 1]])
def test_operations_that_write_to_views(x, write, show):
    def written(z):
        whole = torch.cat([z, 2 * z], 1)
        view = show(whole)
        write(view, z)
        return whole[:, :6] + view

    audit = CondAttribution(Between(written).double().eval()).audit(x, EpsilonPlus())
    assert audit.accounted == pytest.approx(1, abs=1e-3) and not audit.faults


def test_a_batch_norm_that_is_not_merged_is_noted():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)).eval()
    model[1].running_var.fill_(3.)
    audit = CondAttribution(model, functional=False).audit(torch.rand(2, 1, 5, 5), EpsilonPlus())
    assert balance_of(audit, "BatchNorm2d").factor == pytest.approx(1)
    assert audit.notes == ["batch norm is not merged into the layer before it: 1"]


def test_modules_called_twice_and_functional_relus_are_noted():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.relu = nn.Linear(5, 5), nn.ReLU()

        def forward(self, x):
            return self.layer(functional.relu(self.relu(self.layer(x))))

    audit = CondAttribution(Twice(), functional=False).audit(torch.rand(2, 5), EpsilonPlus())
    assert any(note.startswith("called more than once") and "layer" in note for note in audit.notes)
    assert any(note.startswith("functional ReLU") and "test_audit.py:" in note for note in audit.notes)
    for functional_rules, composite in ((False, for_types(Epsilon(), nn.Linear)), (True, EpsilonPlus())):
        audit = CondAttribution(Twice(), functional=functional_rules).audit(torch.rand(2, 5), composite)
        assert not any("functional ReLU" in note for note in audit.notes)


@pytest.mark.parametrize("conditions", [None, [{"y": [2]}], [{"y": [0, 1]}, {"y": []}]])
def test_nothing_stays_on_the_model(model_state, conditions):
    model = Between(nn.Sequential(nn.BatchNorm1d(6), nn.ReLU(inplace=True))).eval()
    before = model_state(model)
    data = torch.rand(2, 5, requires_grad=True)
    audit = CondAttribution(model).audit(data, EpsilonPlus(), conditions)
    assert model_state(model) == before and data.grad is None
    assert audit.total == pytest.approx(1, abs=1e-2)


def test_nothing_stays_after_an_error(model_state):
    def fail(z):
        raise KeyError("no such luck")

    model = Between(fail)
    before = model_state(model)
    for _ in range(2):
        with pytest.raises(KeyError, match="no such luck"):
            CondAttribution(model).audit(torch.rand(2, 5), EpsilonPlus())
        assert model_state(model) == before


def test_conditions_with_layers_are_refused(x):
    with pytest.raises(ValueError, match="no masks"):
        CondAttribution(Between(torch.relu).double()).audit(x, EpsilonPlus(), [{"first": [1], "y": [0]}])


def test_sequences_and_embeddings():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4, bias=False))
    audit = CondAttribution(model).audit(torch.tensor([[1, 2, 3]]), EpsilonPlus())
    assert audit.total == pytest.approx(1, abs=1e-3) and not audit.faults


def test_a_model_that_writes_to_the_input_of_a_rule(x):
    def write(z):
        out = functional.linear(z, torch.eye(6, dtype=z.dtype))
        z += 1
        return out + z

    model = Between(write).double()
    audits = [CondAttribution(model, accelerate=accelerate).audit(x, EpsilonPlus()) for accelerate in (True, False)]
    assert audits[0].total == pytest.approx(audits[1].total)


def test_table_and_plot(x):
    audit = CondAttribution(Between(lambda z: z * 2).double(), functional=False).audit(x, EpsilonPlus())
    header, line = audit.table().splitlines()
    assert header.split() == ["operation", "module", "source", "rule", "arrives", "leaves", "factor"]
    assert line.split()[0] == "mul" and line.split()[-1] == "2.000"
    assert str(audit).startswith("Of relevance 1 at the output, 2") and repr(audit) == str(audit)
    axis, = audit.plot().axes
    assert axis.lines[1].get_ydata()[-1] == pytest.approx(audit.total, abs=1e-4)
    assert [text.get_text() for text in axis.texts] == ["mul\n"]


# Warnings

def test_a_warning_once_where_relevance_is_created():
    attribution, composite = CondAttribution(resnet(), functional=False), EpsilonPlus()
    images = torch.randn(2, 3, 32, 32)
    with pytest.warns(UserWarning, match="does not conserve relevance.*256"):
        attribution(images, [{"y": [1]}], composite)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attribution(images, [{"y": [1]}], composite)


def test_a_warning_where_relevance_is_lost(x):
    with pytest.warns(UserWarning, match="does not conserve"):
        CondAttribution(Between(lambda z: z / 4).double(), functional=False)(x, [{"y": [0]}], EpsilonPlus())


@pytest.mark.parametrize("arguments", [
    {"conditions": [{"y": [0]}], "composite": GuidedBackprop()},
    {"conditions": [{"y": [0]}], "composite": None},
    {"conditions": [{"first": [0], "y": [0]}], "composite": EpsilonPlus()},
    {"conditions": [{}], "composite": EpsilonPlus(), "start_layer": "first"},
    {"conditions": [{"y": [0]}], "composite": EpsilonPlus(), "heatmap": False, "record_layer": ["first"]},
])
@pytest.mark.filterwarnings("error")
def test_no_warning_where_conservation_is_not_to_be_expected(x, arguments):
    attribution = CondAttribution(Between(lambda z: z * 8).double().eval(), functional=False, heatmap_axis=None)
    attribution(x, **arguments)


@pytest.mark.filterwarnings("error")
def test_no_warning_where_biases_hold_the_rest(x):
    head = nn.Linear(6, 3).double()
    nn.init.constant_(head.bias, 50.)
    model = Between(nn.ReLU(), head=head).double().eval()
    result = CondAttribution(model, heatmap_axis=None)(x, [{"y": [0]}], EpsilonPlus())
    assert result.heatmap.sum() < 0.5 * result.prediction[:, 0].sum()


@pytest.mark.filterwarnings("error")
def test_no_warning_for_a_users_own_heatmap(x):
    class Absolute(CondAttribution):
        def heatmap_modifier(self, data, on_device=None):
            return data.grad.abs()

    Absolute(Between(lambda z: z * 8).double().eval(), functional=False)(x, [{"y": [0]}], EpsilonPlus())


def test_pass_conserves(x):
    audit = CondAttribution(Between(nn.Tanh()).double()).audit(x, for_types(Pass(), nn.Tanh), [{"y": [0]}])
    assert math.isfinite(audit.total)
    assert balance_of(audit, "Tanh").factor == pytest.approx(1)


def test_flat_on_images_conserves():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2, bias=False)).double()
    audit = CondAttribution(model).audit(torch.rand(2, 1, 5, 5, dtype=torch.double), EpsilonPlusFlat())
    assert audit.total == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("model, place", [
    (nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False)), "Linear '2'"),
    (nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), "biases in Linear '2'"),
], ids=["output", "relevance"])
def test_a_network_whose_output_or_relevance_vanishes_is_said_to(model, place):
    x = torch.rand(2, 4)
    nn.init.constant_(model[0].weight, -1.)
    if model[0].bias is not None:
        nn.init.zeros_(model[0].bias)
        nn.init.constant_(model[2].bias, .5)
    attribution = CondAttribution(model.eval(), heatmap_axis=None)
    audit = attribution.audit(x, EpsilonPlus())
    assert audit.total == 0 and f"{place}" in audit.vanishing and audit.vanishing in str(audit)
    with pytest.warns(UserWarning, match="heatmaps show nothing: almost no relevance arrives .*: of 1, 1 goes"):
        assert not attribution(x, [{"y": [1]}], EpsilonPlus()).heatmap.any()
    nn.init.constant_(model[0].weight, 1.)
    assert attribution.audit(x, EpsilonPlus()).vanishing == ""


def cancelling(blocks, gap):
    """Linear layers in pairs: [1, 1] -> [gap, gap] -> [1, 1], where large summands of both signs cancel."""
    layers = []
    for _ in range(blocks):
        narrow, wide = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        narrow.weight.data = torch.tensor([[1., -1 + gap], [-1 + gap, 1.]])
        wide.weight.data = torch.eye(2) / gap
        layers += [narrow, wide]
    return nn.Sequential(*layers).eval()


def test_the_operation_at_which_relevance_becomes_infinite_is_the_first_fault():
    attribution = CondAttribution(cancelling(14, 1e-4), heatmap_axis=None)
    audit = attribution.audit(torch.ones(1, 2), LanguageModel())
    with pytest.raises(FloatingPointError, match="in the rule of") as error:
        attribution(torch.ones(1, 2), [{"y": [0]}], LanguageModel())
    assert repr(audit.faults[0].module) in str(error.value)
    assert f"relevance becomes NaN or infinite in Linear {audit.faults[0].module!r}" in str(audit)
    assert "conserve relevance)" not in str(audit) and not audit.vanishing


def test_absolute_relevance_is_measured_and_its_explosion_told():
    model, x = cancelling(3, 1e-2), torch.ones(1, 2)
    attribution = CondAttribution(model, heatmap_axis=None)
    with pytest.warns(UserWarning, match="heatmaps show little: relevance of both signs cancels"):
        heatmap = attribution(x, [{"y": [0]}], LanguageModel(), init_rel=1).heatmap
    audit = attribution.audit(x, LanguageModel(), [{"y": [0]}])
    assert audit.absolute == pytest.approx(heatmap.abs().sum().item()) and audit.absolute > 1e6
    assert audit.total == pytest.approx(1, abs=1e-2) and not audit.faults
    largest = max(audit.operations, key=lambda o: o.sent_magnitude / o.magnitude)
    assert largest.sent_magnitude / largest.magnitude == pytest.approx(199, rel=.01)
    assert f"grows most in Linear {largest.module!r}, 199-fold" in str(audit)
    few = attribution.audit(torch.tensor([[1., 0.]]), LanguageModel())
    assert few.absolute < 1000 and not few.exploding


class Ending(nn.Module):
    def __init__(self, end):
        super().__init__()
        self.first, self.head, self.end = nn.Linear(5, 6), nn.Linear(6, 3), end

    def forward(self, x):
        return self.end(30 * self.head(self.first(x).relu()))


@pytest.mark.parametrize("end, hint", [
    (nn.Softmax(1), "start_layer='end:in'"), (nn.LogSoftmax(1), "start_layer='end:in'"),
    (lambda z: functional.softmax(z, -1), "start_layer='head'"), (lambda z: z.log_softmax(1), "start_layer='head'"),
    (lambda z: z.softmax(1)[:, :2].contiguous(), "start_layer='head'"),
], ids=["Softmax", "LogSoftmax", "softmax", "log_softmax", "softmax, then a view"])
@pytest.mark.parametrize("functional_rules", [True, False])
def test_a_softmax_at_the_end_is_told(end, hint, functional_rules):
    torch.manual_seed(0)
    x = torch.rand(4, 5)
    attribution = CondAttribution(Ending(end).eval(), heatmap_axis=None, functional=functional_rules)
    audit = attribution.audit(x, EpsilonPlus())
    assert "the output is a " in audit.saturated and hint in str(audit)
    if not isinstance(end, type(lambda: 0)) or "contiguous" not in end.__code__.co_names:
        with pytest.warns(UserWarning, match=hint):
            attribution(x, [{"y": [0]}], EpsilonPlus())


@pytest.mark.parametrize("end, hint", [
    (nn.Sigmoid(), "start_layer='end:in'"), (torch.sigmoid, "start_layer='head'"), (functional.sigmoid, "head"),
], ids=["module", "torch", "functional"])
def test_a_sigmoid_that_turns_signs_is_told(end, hint):
    torch.manual_seed(0)
    x, model = torch.rand(8, 5), Ending(end).eval()
    attribution, likely = CondAttribution(model, heatmap_axis=None), model(x) > 0.5
    below, above = torch.nonzero(~likely)[0], torch.nonzero(likely)[0]
    assert hint in attribution.audit(x[below[:1]], EpsilonPlus(), [{"y": [int(below[1])]}]).turned
    assert not attribution.audit(x[above[:1]], EpsilonPlus(), [{"y": [int(above[1])]}]).turned
    with pytest.warns(UserWarning, match=f"heatmaps have turned signs: the output is a sigmoid.*{hint}"):
        turned = attribution(x[below[:1]], [{"y": [int(below[1])]}], EpsilonPlus()).heatmap
    right = attribution(x[below[:1]], [{"head": [int(below[1])]}], EpsilonPlus(), start_layer="head").heatmap
    assert (turned * right).sum() < 0


@pytest.mark.parametrize("end", [nn.Sigmoid(), nn.ReLU(), lambda z: z.softmax(1) @ torch.rand(3, 3)])
def test_what_is_no_softmax_is_not_called_so(end):
    audit = CondAttribution(Ending(end).eval(), heatmap_axis=None).audit(torch.rand(4, 5), EpsilonPlus())
    assert not audit.saturated


@pytest.mark.parametrize("conditions, outputs", [(None, None), ([{"y": [2]}], 2)])
def test_an_audit_from_a_layer_starts_at_its_outputs(conditions, outputs):
    torch.manual_seed(0)
    x, model = torch.rand(4, 5), Ending(nn.Softmax(1)).eval()
    attribution, logits = CondAttribution(model, heatmap_axis=None), CondAttribution(
        nn.Sequential(model.first, nn.ReLU(), model.head).eval(), heatmap_axis=None
    )
    audit = attribution.audit(x, EpsilonPlus(), conditions, start_layer="head")
    expected = logits.audit(x, EpsilonPlus(), conditions)
    assert audit.total == pytest.approx(expected.total) and audit.sinks == pytest.approx(expected.sinks)
    assert not audit.saturated and len(audit.operations) == len(expected.operations)
    with pytest.raises(ValueError, match="no layer 'heat'; did you mean 'head'"):
        attribution.audit(x, EpsilonPlus(), start_layer="heat")
    with pytest.raises(IndexError, match="target 7 is out of range"):
        attribution.audit(x, EpsilonPlus(), [{"y": [7]}], start_layer="head")
