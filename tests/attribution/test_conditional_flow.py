import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from zennit.composites import EpsilonPlus, EpsilonPlusFlat
from zennit.rules import Epsilon

from crp.attribution import AttributionGraph, CondAttribution
from crp.concepts import ChannelConcept
from crp.graph import trace_model_graph


class Convolutions(TorchDispatchMode):
    """The batch sizes of the convolutions that run, and of their backward passes."""

    def __init__(self):
        super().__init__()
        self.forward, self.backward = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.forward.append((len(args[0]), *args[1].shape[:2]))
        if func is torch.ops.aten.convolution_backward.default:
            self.backward.append((len(args[0]), *args[2].shape[:2]))
        return func(*args, **kwargs or {})


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(inplace=True), nn.AvgPool2d(2),
        nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 9, 5),
    ).double().eval()


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(3 * 144, 5)

    def forward(self, x):
        x = functional.relu(self.first(x), inplace=True)
        out = self.second(x)
        out += x
        return self.head(out.view(len(out), -1))


class WritesToInput(Residual):
    def forward(self, x):
        x = self.first(x)
        out = self.second(x)
        x += 1
        return self.head((out + x).flatten(1))


@pytest.fixture
def image():
    torch.manual_seed(1)
    return torch.rand(1, 3, 12, 12, dtype=torch.double)


def dense(model, image, conditions, **arguments):
    attribution = CondAttribution(model, accelerate=False)
    return attribution(image.repeat_interleave(len(conditions), 0), conditions, EpsilonPlusFlat(), **arguments)


CONDITIONS = [{"3": [c], "y": [c % 2]} for c in range(7)]


def assert_equal(results, expected):
    heatmaps = torch.cat([result.heatmap for result in results])
    torch.testing.assert_close(heatmaps, expected.heatmap, rtol=0, atol=1e-12 * float(expected.heatmap.abs().max()))
    for layer, relevance in expected.relevances.items():
        found = torch.cat([result.relevances[layer] for result in results])
        torch.testing.assert_close(found, relevance, rtol=0, atol=1e-12 * float(relevance.abs().max()))
        found = torch.cat([result.activations[layer] for result in results])
        torch.testing.assert_close(found, expected.activations[layer])


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10])
@pytest.mark.parametrize("arguments", [
    {}, {"record_layer": ["0", "3", "6", "9"]}, {"record_layer": ["0"], "exclude_parallel": False},
    {"start_layer": "6", "record_layer": ["0", "8"]}, {"init_rel": 1.}, {"init_rel": lambda output: output.abs()},
])
def test_generate_gives_what_separate_samples_give(model, image, batch_size, arguments):
    results = list(CondAttribution(model).generate(
        image, CONDITIONS, EpsilonPlusFlat(), batch_size=batch_size, verbose=False, **arguments
    ))
    assert_equal(results, dense(model, image, CONDITIONS, **arguments))


@pytest.mark.parametrize("targets", [[[0]] * 4, [torch.tensor([0])] * 4, [[0, 1]] * 4, [[], [0], [1], [0]]])
def test_generate_with_equal_and_other_targets(model, image, targets):
    conditions = [{"3": [row], "y": target} for row, target in enumerate(targets)]
    results = list(CondAttribution(model).generate(image, conditions, EpsilonPlusFlat(), batch_size=4, verbose=False))
    assert_equal(results, dense(model, image, conditions))


def test_generate_runs_the_forward_pass_the_denominators_and_what_lies_above_the_concepts_on_one_row(model, image):
    conditions = [{"3": [c], "y": [1]} for c in range(4)]
    with Convolutions() as count:
        attribution = CondAttribution(model, samples={"3": 0})
        list(attribution.generate(image, conditions, EpsilonPlusFlat(), batch_size=2, verbose=False))
    assert len(count.forward) == 3 + 3  # the model, and the denominators once for both rounds
    assert {batch for batch, *_ in count.forward} == {1}
    above = [call for call in count.backward if call[1:] == (16, 12)]
    assert above == [(1, 16, 12)] * 2
    assert [call for call in count.backward if call[2] == 8] == [(2, 2, 8)] * 2  # two channels of twelve are asked for


@pytest.mark.parametrize("kind", [Residual, WritesToInput])
def test_models_that_write_to_their_tensors_give_the_same_relevance(kind, image):
    torch.manual_seed(0)
    model = kind().double().eval()
    conditions = [{"first": [c], "y": [1]} for c in range(3)]
    results = list(CondAttribution(model).generate(image, conditions, EpsilonPlusFlat(), batch_size=3, verbose=False))
    assert_equal(results, dense(model, image, conditions))
    result = CondAttribution(model)(image, conditions, EpsilonPlusFlat())
    assert_equal([result], dense(model, image, conditions))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_error_of_the_model_is_not_hidden_by_the_second_attempt(image):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            raise RuntimeError("no such luck")

    model = Broken()
    with pytest.raises(RuntimeError, match="no such luck"):
        list(CondAttribution(model).generate(image, [{"y": [0]}] * 2, batch_size=2, verbose=False))
    assert model.calls == 2


def test_results_can_be_written_to(model, image):
    result = next(CondAttribution(model).generate(
        image, CONDITIONS[:2], EpsilonPlusFlat(), record_layer=["0", "9"], verbose=False
    ))
    for tensor in (result.heatmap, result.prediction, *result.activations.values(), *result.relevances.values()):
        tensor[0] += 1
        assert not torch.equal(tensor[0], tensor[1])


# Without heatmap

@pytest.mark.parametrize("composite", [EpsilonPlusFlat(), EpsilonPlus(), None])
@pytest.mark.parametrize("arguments", [
    {"record_layer": ["3"]}, {"record_layer": ["3", "6", "0"]}, {"record_layer": ["8", "7:in"]},
    {"record_layer": ["6"], "start_layer": "3"}, {"record_layer": ["3", "6"], "start_layer": "6"},
    {"record_layer": ["0"], "init_rel": 1.}, {"record_layer": ["6"], "exclude_parallel": False}, {},
])
@pytest.mark.parametrize("accelerate", [True, False])
def test_records_without_heatmap_are_those_with_it(model, image, composite, arguments, accelerate):
    images = torch.cat([image, 1 - image])
    conditions = [{"3": [2], "y": [1]}, {"3": [4, 5], "y": [3]}]
    attribution = CondAttribution(model, accelerate=accelerate)
    expected = attribution(images, conditions, composite, **arguments)
    for _ in range(2):
        result = attribution(images, conditions, composite, heatmap=False, **arguments)
        assert result.heatmap is None
        torch.testing.assert_close(result.prediction, expected.prediction)
        torch.testing.assert_close(result.relevances, expected.relevances, rtol=0, atol=1e-12)
        torch.testing.assert_close(result.activations, expected.activations)


def test_parallel_branches_without_heatmap():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.left, self.right = (nn.Linear(4, 4) for _ in range(3))
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            x = self.stem(x)
            return self.head(torch.cat([self.left(x), self.right(x)], 1))

    torch.manual_seed(0)
    model, x = Branches(), torch.rand(2, 4)
    for condition in ({"left": [1], "y": [0]}, {"y": [0]}, {"stem": [0], "y": [0]}):
        for exclude_parallel in (True, False):
            for record in (["right"], ["stem"], ["left", "right"], ["right", "stem"]):
                expected, result = (
                    CondAttribution(model)(
                        x, [condition], EpsilonPlus(), record, exclude_parallel=exclude_parallel, heatmap=heatmap
                    ) for heatmap in (True, False)
                )
                torch.testing.assert_close(result.relevances, expected.relevances)


def test_no_graph_and_no_relevance_below_the_lowest_record(model, image):
    seen = []
    handle = model[3].register_forward_hook(lambda module, args, output: seen.append(output.requires_grad))
    with Convolutions() as count:
        CondAttribution(model, samples={"6": 0})(
            image, [{"y": [1]}], EpsilonPlusFlat(), record_layer=["6"], heatmap=False
        )
    handle.remove()
    assert seen == [False]
    assert count.backward == []
    assert len(count.forward) == 3


def test_data_that_require_gradients_get_none_without_heatmap(model, image):
    image.requires_grad_()
    CondAttribution(model)(image, [{"y": [1]}], EpsilonPlusFlat(), record_layer=["6"], heatmap=False)
    assert image.grad is None


def test_generate_and_rounds_without_heatmap(model, image):
    attribution = CondAttribution(model)
    expected = dense(model, image, CONDITIONS, record_layer=["0"])
    results = list(attribution.generate(
        image, CONDITIONS, EpsilonPlusFlat(), ["0"], batch_size=3, verbose=False, heatmap=False
    ))
    assert all(result.heatmap is None for result in results)
    torch.testing.assert_close(torch.cat([result.relevances["0"] for result in results]), expected.relevances["0"])
    rounds = attribution.attribute_rounds(image, [[c] for c in CONDITIONS], EpsilonPlusFlat(), ["0"], heatmap=False)
    torch.testing.assert_close(torch.cat([result.relevances["0"] for result in rounds]), expected.relevances["0"])


def test_token_ids_without_heatmap():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Flatten(), nn.Linear(12, 2))
    ids = torch.tensor([[1, 2, 3]])
    with_heatmap, without = (
        CondAttribution(model)(ids, [{"y": [1]}], EpsilonPlus(), record_layer=["1"], heatmap=heatmap)
        for heatmap in (True, False)
    )
    torch.testing.assert_close(without.relevances, with_heatmap.relevances)


def test_a_function_says_what_is_kept_of_records(model, image):
    def read(tensor, layer):
        return tensor.flatten(1).sum(1), tensor.flatten(1).argmax(1)

    attribution = CondAttribution(model)
    images = torch.cat([image, 1 - image])
    conditions = [{"6": [2], "y": [1]}, {"y": [3]}]
    layers = ["0", "3", "6", "9"]
    expected = attribution(images, conditions, EpsilonPlusFlat(), layers)
    for heatmap in (True, False):
        result = attribution(images, conditions, EpsilonPlusFlat(), layers, record_fn=read, heatmap=heatmap)
        for layer in layers:
            torch.testing.assert_close(result.activations[layer], read(expected.activations[layer], layer))
            torch.testing.assert_close(result.relevances[layer], read(expected.relevances[layer], layer))
    start = attribution(images, [{}, {}], EpsilonPlusFlat(), layers, start_layer="3", record_fn=read)
    assert not start.relevances["6"][0].any() and start.relevances["3"][0].any()


# Forward stops

def count_calls(model):
    calls = []
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda module, args, name=name: calls.append(name))
    return calls


def test_forward_stops_at_the_start_layer_or_the_last_recorded_one(model, image):
    attribution = CondAttribution(model)
    arguments = {"composite": EpsilonPlusFlat(), "start_layer": "3"}
    first = attribution(image, [{"3": [2]}], **arguments)
    recorded = attribution(image, [{"3": [2]}], record_layer=["6"], **arguments)
    calls = count_calls(model)
    again = attribution(image, [{"3": [2]}], **arguments)
    assert calls[-1] == "3"
    torch.testing.assert_close(again, first)
    calls.clear()
    again = attribution(image, [{"3": [2]}], record_layer=["6"], **arguments)
    assert calls[-1] == "6"
    torch.testing.assert_close(again, recorded)
    assert again.relevances["6"].count_nonzero() == 0 and again.activations["6"].count_nonzero() > 0


def test_forward_goes_on_where_a_layer_is_called_again(image):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(x)).flatten(1)

    torch.manual_seed(0)
    model = Twice().double()
    attribution = CondAttribution(model)
    results = [attribution(image, [{}], EpsilonPlus(), start_layer="conv") for _ in range(3)]
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])
    torch.testing.assert_close(results[0].prediction, model.conv(model.conv(image)))


def test_a_model_that_handles_exceptions_stops_too(image):
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fallback = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)

        def forward(self, x):
            try:
                return self.conv(x).flatten(1)
            except Exception:
                return self.fallback(x).flatten(1)

    torch.manual_seed(0)
    model = Careful().double()
    attribution = CondAttribution(model)
    first = attribution(image, [{}], EpsilonPlus(), start_layer="conv")
    calls = count_calls(model)
    torch.testing.assert_close(attribution(image, [{}], EpsilonPlus(), start_layer="conv"), first)
    assert calls == ["", "conv"]


def test_attribution_graph_propagates_between_its_layers_only(model, image):
    layers = {layer: ChannelConcept() for layer in ("0", "3", "6", "9")}
    graph = trace_model_graph(model, image, list(layers))
    with Convolutions() as count:
        AttributionGraph(CondAttribution(model), graph, layers)(
            image, EpsilonPlusFlat(), 2, "6", target=1, width=[2], verbose=False
        )
    assert [channels for _, *channels in count.backward] == [[1, 12]]


def test_zennits_hooks_act_where_acceleration_is_off(model, image):
    seen = []

    class Watched(Epsilon):
        def backward(self, module, grad_input, grad_output):
            seen.append(module)
            return super().backward(module, grad_input, grad_output)

    composite = EpsilonPlus(layer_map=[(nn.Linear, Watched())])
    CondAttribution(model, accelerate=False)(image, [{"y": [0]}], composite)
    assert set(seen) == {model[9]}


def test_parameters_get_gradients_where_they_are_asked_for(model, image):
    gradients = []
    for accelerate in (True, False):
        model.zero_grad()
        CondAttribution(model, no_param_grad=False, accelerate=accelerate)(image, [{"y": [0]}], EpsilonPlus())
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_equal_rows_are_run_once_without_heatmap_too(model, image):
    conditions = [{"6": [c], "y": [1]} for c in range(4)]
    with Convolutions() as count:
        list(CondAttribution(model, samples={"3": 0, "6": 0}).generate(
            image, conditions, EpsilonPlusFlat(), ["3"], batch_size=4, verbose=False, heatmap=False
        ))
    assert {batch for batch, *_ in count.forward} == {1}
