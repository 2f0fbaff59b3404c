"""The model stays as it was, whatever happens during an attribution."""
import itertools
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from networks_by_hand import CONCEPT, BatchNormNet, canonized, close, conv_net, images, mlp, vectors
from torch import nn
from zennit.canonizers import Canonizer, SequentialMergeBatchNorm
from zennit.composites import EpsilonPlusFlat, LayerMapComposite
from zennit.core import Composite
from zennit.rules import Epsilon

from crp.attribution import CondAttribution


@pytest.mark.parametrize("no_param_grad", [True, False])
def test_nothing_stays_on_the_model_after_success(model_state, no_param_grad):
    net = BatchNormNet().eval()
    before = model_state(net)
    attribution = CondAttribution(net, no_param_grad=no_param_grad)
    result = attribution(images().float(), [{"conv1": [0], "y": [0]}, {"y": [1]}], canonized(), ["bn", "conv2"])
    assert result.heatmap.any()
    after = model_state(net)
    assert after[0] == before[0] and after[2] == before[2]
    if no_param_grad:
        assert after == before
    else:
        assert [p.requires_grad for p in net.parameters()] == [entry[1] for entry in before[1].values()]
        assert all(parameter is original for parameter, original in zip(net.parameters(), list(net.parameters())))


@pytest.mark.parametrize("no_param_grad", [True, False])
def test_parameters_are_frozen_only_if_asked(no_param_grad):
    net = BatchNormNet().eval()
    seen = []
    net.fc.register_forward_hook(lambda module, *args: seen.append(module.weight.requires_grad))
    CondAttribution(net, no_param_grad=no_param_grad)(images().float(), [{"y": [0]}])
    assert seen == [not no_param_grad] and net.fc.weight.requires_grad
    assert (net.fc.weight.grad is None) == no_param_grad
    assert not net.conv2.bias.requires_grad


def test_parameters_that_canonizers_make_are_frozen_too():
    net, seen = BatchNormNet().eval(), []
    net.fc.register_forward_hook(lambda *args: seen.extend(p.requires_grad for p in net.parameters()))
    CondAttribution(net)(images().float(), [{"y": [0]}], canonized())
    assert seen and not any(seen)


def image_with_nan():
    data = images().float()
    data[0, 0, 0, 0] = float("nan")
    return data


def failing_mask(batch_id, ids, layer):
    def mask(relevance):
        raise RuntimeError("a mask fails")

    return mask


def failing_init(prediction):
    raise RuntimeError("init_rel fails")


ERRORS = {
    "unknown layer in a condition": (dict(conditions=[{"conv3": [0], "y": [0]}]), ValueError, "'conv3'.*'conv"),
    "unknown layer to record": (dict(record_layer=["fcc"]), ValueError, "'fcc'; did you mean 'fc'"),
    "unknown start layer": (dict(start_layer="con2"), ValueError, "'con2'; did you mean 'conv2'"),
    "layer that is not used": (dict(record_layer=["unused"]), ValueError, "'unused' is not used"),
    "unknown part of a layer": (dict(record_layer=["conv1:out"]), ValueError, "conv1:out.*'in'"),
    "no such output": (dict(record_layer=["conv1:1"]), ValueError, "conv1:1.*no tensor"),
    "concept too large": (dict(conditions=[{"conv1": [0, 4], "y": [0]}]), IndexError, "4 .*'conv1'.* 0 to 3"),
    "concept too small": (dict(conditions=[{"conv1": [-5], "y": [0]}]), IndexError, "-5 .*'conv1'.* 0 to 3"),
    "concept too large without exclude_parallel": (
        dict(conditions=[{"conv2": [3], "y": [0]}], exclude_parallel=False), IndexError, "3 .*'conv2'.* 0 to 2"),
    "concept that is no integer": (dict(conditions=[{"conv1": [1.5], "y": [0]}]), TypeError, "integers"),
    "target too large": (dict(conditions=[{"y": [3]}]), IndexError, "target 3 .* 0 to 2"),
    "target too small": (dict(conditions=[{"y": [-4]}]), IndexError, "target -4 .* 0 to 2"),
    "target with too many indices": (dict(conditions=[{"y": [(0, 1)]}]), IndexError, r"\(0, 1\)"),
    "target that is no integer": (dict(conditions=[{"y": [0.5]}]), TypeError, "0.5"),
    "wrong order of layers": (
        dict(conditions=[{"conv1": [0], "conv2": [0], "y": [0]}]), ValueError, r"last to first.*'conv2', 'conv1'"),
    "condition above the start layer": (
        dict(conditions=[{"conv2": [0]}], start_layer="conv1"), ValueError, "'conv2'.*'conv1'"),
    "no conditions": (dict(conditions=[]), ValueError, "empty"),
    "conditions are one dict": (dict(conditions={"y": [0]}), TypeError, "list of dicts"),
    "conditions are a number": (dict(conditions=3), TypeError, "list of dicts"),
    "a condition is no dict": (dict(conditions=[("y", 0)]), TypeError, "a condition is a dict"),
    "a condition without start": (dict(conditions=[{"conv1": [0]}]), ValueError, "where relevance starts"),
    "record_layer is a string": (dict(record_layer="conv1"), TypeError, r"\['conv1'\]"),
    "init_rel of another shape": (dict(init_rel=torch.ones(1, 7)), ValueError, "init_rel.*7"),
    "init_rel fails": (dict(init_rel=failing_init), RuntimeError, "init_rel fails"),
    "a mask fails": (
        dict(conditions=[{"conv1": [0], "y": [0]}], mask_map=failing_mask), RuntimeError, "a mask fails"),
    "mask_map without the layer": (
        dict(conditions=[{"conv1": [0], "y": [0]}], mask_map={"conv2": CONCEPT}), ValueError, "mask_map.*conv1"),
    "data of another shape": (dict(data=torch.ones(1, 2, 9, 9)), RuntimeError, None),
    "data without samples": (dict(data=torch.ones(0, 2, 6, 6)), ValueError, "no sample"),
    "data of another type": (dict(data="image"), TypeError, "data is a tensor"),
    "NaN in the data": (dict(data=image_with_nan()), FloatingPointError, "the data hold NaN"),
}


@pytest.mark.parametrize("generate", [False, True], ids=["call", "generate"])
@pytest.mark.parametrize("label", ERRORS)
def test_known_bug_an_error_left_hooks_on_the_model(label, generate, model_state):
    net = BatchNormNet().eval()
    before = model_state(net)
    changes, error, message = ERRORS[label]
    composite = canonized()
    arguments = dict(data=images().float(), conditions=[{"y": [0]}], composite=composite) | changes
    attribution = CondAttribution(net)
    with pytest.raises(error, match=message):
        if generate:
            list(attribution.generate(verbose=False, **arguments))
        else:
            attribution(**arguments)
    assert model_state(net) == before
    assert not composite.handles
    assert attribution(images().float(), [{"y": [0]}], composite).heatmap.any()


@pytest.mark.parametrize("conditions", [
    [{"conv1": [9], "y": [0]}], [{"y": [9]}], [{"conv1": [0], "conv2": [0], "y": [0]}],
    [{"conv1": [0], "y": [0]}, {"conv2": [9], "y": [0]}], [{"conv1": [0], "y": [0]}, {"conv2": [0], "y": [9]}],
    [{"conv1": [0], "y": [0]}, {"conv1": [0], "conv2": [0], "y": [0]}],
])
@pytest.mark.parametrize("generate", [False, True])
def test_errors_in_any_condition_come_before_relevance_flows(conditions, generate):
    flows = []

    class Counting(CondAttribution):
        def backward(self, *args, **kwargs):
            flows.append(1)
            super().backward(*args, **kwargs)

    attribution = Counting(conv_net())
    with pytest.raises((IndexError, ValueError)):
        if generate:
            list(attribution.generate(images(), conditions, batch_size=1, verbose=False))
        else:
            attribution(images(), conditions)
    assert not flows


class BrokenCanonizer(Canonizer):
    def apply(self, root_module):
        raise RuntimeError("a canonizer fails")

    register = remove = copy = apply


def broken_module_map(ctx, name, module):
    if name == "fc":
        raise RuntimeError("a module map fails")
    return Epsilon() if isinstance(module, (nn.Conv2d, nn.Linear)) else None


@pytest.mark.parametrize("composite", [
    EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm(), BrokenCanonizer()]),
    Composite(broken_module_map, canonizers=[SequentialMergeBatchNorm()]),
], ids=["canonizer", "module map"])
def test_a_composite_that_fails_to_register_leaves_nothing_on_the_model(composite, model_state):
    net = BatchNormNet().eval()
    before = model_state(net)
    with pytest.raises(RuntimeError, match="fails"):
        CondAttribution(net)(images().float(), [{"y": [0]}], composite)
    assert model_state(net) == before


def test_canonizers_act_during_the_call():
    net, data = BatchNormNet().double().eval(), images()
    result = CondAttribution(net)(data, [{"y": [0]}], canonized(), ["conv1", "bn"])
    torch.testing.assert_close(result.activations["conv1"], net.bn(net.conv1(data)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(result.activations["bn"], result.activations["conv1"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(result.prediction, net(data), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(result.activations["conv1"], net.conv1(data))


def test_an_infinite_output_that_no_relevance_starts_at_is_no_error():
    class Forbidden(nn.Module):
        def forward(self, x):
            return x.masked_fill(torch.tensor([False, False, True]), -float("inf"))

    net, data = nn.Sequential(mlp(), Forbidden()).eval(), vectors()
    result = CondAttribution(net)(data, [{"y": [0]}])
    close(result.heatmap, CondAttribution(mlp())(data, [{"y": [0]}]).heatmap)


@pytest.mark.parametrize("broken", ["conv1", "conv2", "fc"])
def test_nan_in_activations_names_the_module_where_it_begins(broken, model_state):
    net = BatchNormNet().eval()
    getattr(net, broken).weight.data.flatten()[0] = float("inf")
    before = model_state(net)
    with pytest.raises(FloatingPointError, match=f"'{broken}'"):
        CondAttribution(net)(images().float(), [{"y": [0]}], canonized())
    assert model_state(net) == before


@pytest.mark.parametrize("generate", [False, True])
def test_nan_in_relevance_names_the_module_where_it_begins(generate, model_state):
    net = mlp()
    net.fc2.weight.data.zero_()
    net.fc2.bias.data.zero_()
    rules = LayerMapComposite([(nn.Linear, Epsilon(lambda output: output))])
    attribution, before = CondAttribution(net, accelerate=False), model_state(net)
    with pytest.raises(FloatingPointError, match="rule of 'fc2'"):
        if generate:
            list(attribution.generate(vectors(), [{"y": [0]}], rules, verbose=False))
        else:
            attribution(vectors(), [{"y": [0]}], rules)
    assert model_state(net) == before


@pytest.mark.parametrize("how", ["close", "delete", "break", "raise"])
@pytest.mark.parametrize("verbose", [True, False])
def test_nothing_stays_on_the_model_after_an_abandoned_generate(how, verbose, model_state):
    net = BatchNormNet().eval()
    before = model_state(net)
    results = CondAttribution(net).generate(
        images().float(), [{"conv1": [i], "y": [0]} for i in range(4)], canonized(), ["bn"], batch_size=2,
        verbose=verbose,
    )
    if how == "break":
        for _ in results:
            break
        del results
    elif how == "raise":
        with pytest.raises(KeyboardInterrupt):
            for _ in results:
                raise KeyboardInterrupt
        del results
    else:
        next(results)
        assert model_state(net) != before
        if how == "close":
            results.close()
        else:
            del results
    assert model_state(net) == before


def test_train_mode_warns_at_the_line_of_the_caller():
    net = nn.Sequential(conv_net(), nn.Dropout()).train()
    with pytest.warns(UserWarning, match="train mode") as caught:
        CondAttribution(net)(images(), [{"y": [0]}])
    assert caught[0].filename == __file__


class AsksByItself(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, training=self.training)


@pytest.mark.parametrize("module", [AsksByItself(), nn.Dropout(), nn.RReLU()])
def test_every_module_whose_code_asks_for_train_mode_warns(module):
    net = nn.Sequential(conv_net(), module).eval()
    module.train()
    with pytest.warns(UserWarning, match="in train mode, such as '1'"):
        CondAttribution(net)(images(), [{"y": [0]}])


def test_eval_mode_and_modules_that_do_not_ask_for_it_do_not_warn(recwarn):
    CondAttribution(conv_net())(images(), [{"y": [0]}], EpsilonPlusFlat())
    CondAttribution(nn.Sequential(conv_net().eval()))(images(), [{"y": [0]}], EpsilonPlusFlat())
    assert not [warning for warning in recwarn if "train mode" in str(warning.message)]


def test_a_composite_beside_a_registered_one_is_refused(model_state):
    net, composite = conv_net(), EpsilonPlusFlat()
    attribution = CondAttribution(net)
    with composite.context(net):
        before = model_state(net)
        for rules in (composite, EpsilonPlusFlat()):
            with pytest.raises(ValueError, match="still registered"):
                attribution(images(), [{"y": [0]}], rules)
        assert model_state(net) == before
    assert attribution(images(), [{"y": [0]}], composite).heatmap.any()


def test_a_composite_registered_on_another_model_is_refused():
    composite = EpsilonPlusFlat()
    with composite.context(conv_net()), pytest.raises(ValueError, match="still registered on another model"):
        CondAttribution(conv_net())(images(), [{"y": [0]}], composite)


def test_a_model_serves_one_attribution_at_a_time():
    net, data = conv_net(), images()
    attribution = CondAttribution(net)
    results = attribution.generate(data[:1], [{"conv1": [i], "y": [0]} for i in range(3)], batch_size=1, verbose=False)
    next(results)
    with pytest.raises(RuntimeError, match="another attribution is using this model"):
        attribution(data, [{"y": [0]}])
    results.close()
    assert attribution(data, [{"y": [0]}]).heatmap.any()


def test_threads_get_right_results_or_an_error():
    net, data = conv_net(), images()
    attribution = CondAttribution(net)
    conditions = [[{"conv1": [channel], "y": [0]}] for channel in (0, 1, 2)] * 10
    expected = [attribution(data, condition).heatmap for condition in conditions]

    def attribute(condition):
        try:
            return attribution(data, condition).heatmap
        except RuntimeError as error:
            assert "using this model" in str(error)
            return None

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(attribute, conditions))
    for heatmap, right in zip(found, expected):
        if heatmap is not None:
            close(heatmap, right)
    assert any(heatmap is not None for heatmap in found)


@pytest.mark.parametrize("options", [{}, {"accelerate": False}, {"functional": False}])
def test_threads_with_a_model_each_share_a_composite(options):
    data, condition, composite = images(), [{"conv1": [1], "y": [0]}], EpsilonPlusFlat()
    expected = CondAttribution(conv_net(), **options)(data, condition, EpsilonPlusFlat()).heatmap
    models = [conv_net() for _ in range(4)]

    def attribute(model):
        attribution = CondAttribution(model, **options)
        return [attribution(data, condition, composite).heatmap for _ in range(10)]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(attribute, models))
    finally:
        sys.setswitchinterval(interval)
    for heatmap in itertools.chain(*found):
        close(heatmap, expected)
    assert not composite.handles
    assert not any(module._forward_hooks or module._forward_pre_hooks for model in models for module in model.modules())


def test_train_mode_leaves_running_statistics_as_they_were():
    net = BatchNormNet().train()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    with pytest.warns(UserWarning, match="train mode"):
        CondAttribution(net)(images().float(), [{"y": [0]}])
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())
