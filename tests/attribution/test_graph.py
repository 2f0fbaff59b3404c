"""The layer graph: which layers feed which."""
import time

import pytest
import torch
import torchvision
from torch import nn

from crp.graph import trace_model_graph
from crp.helper import get_layer_names, get_output_shapes

LAYERS = [nn.Conv2d, nn.Linear, nn.MultiheadAttention]


def image(size):
    return torch.rand(1, 3, size, size)


def traced(model, size, types=LAYERS):
    model.eval()
    return trace_model_graph(model, image(size), get_layer_names(model, types))


def test_vgg16_is_a_chain():
    graph = traced(torchvision.models.vgg16(init_weights=False), 32)
    names = [f"features.{i}" for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)]
    names += [f"classifier.{i}" for i in (0, 3, 6)]
    assert graph.layer_names == names
    assert graph.find_input_layers("features.0") == []
    for before, after in zip(names, names[1:]):
        assert graph.find_input_layers(after) == [before]


def test_resnet50_has_its_skip_connections():
    graph = traced(torchvision.models.resnet50(), 32)
    assert len(graph.layer_names) == 54
    expected = {
        "conv1": [], "layer1.0.conv1": ["conv1"], "layer1.0.downsample.0": ["conv1"],
        "layer1.0.conv3": ["layer1.0.conv2"], "layer1.1.conv1": ["layer1.0.conv3", "layer1.0.downsample.0"],
        "layer1.2.conv1": ["layer1.0.conv3", "layer1.0.downsample.0", "layer1.1.conv3"],
        "fc": ["layer4.0.conv3", "layer4.0.downsample.0", "layer4.1.conv3", "layer4.2.conv3"],
    }
    assert {name: graph.find_input_layers(name) for name in expected} == expected


def test_densenet121_concatenates_all_earlier_layers_of_a_block():
    graph = traced(torchvision.models.densenet121(), 32)
    block = "features.denseblock1.denselayer"
    assert graph.find_input_layers(f"{block}4.conv1") == [
        "features.conv0", f"{block}1.conv2", f"{block}2.conv2", f"{block}3.conv2"
    ]
    assert graph.find_input_layers(f"{block}4.conv2") == [f"{block}4.conv1"]
    assert graph.find_input_layers("features.transition1.conv") == [
        "features.conv0", *(f"{block}{i}.conv2" for i in range(1, 7))
    ]
    assert len(graph.find_input_layers("classifier")) == 17


def test_mobilenet_v3_has_squeeze_and_excitation():
    graph = traced(torchvision.models.mobilenet_v3_small(), 32)
    assert graph.find_input_layers("features.1.block.0.0") == ["features.0.0"]
    assert graph.find_input_layers("features.1.block.1.fc1") == ["features.1.block.0.0"]
    assert graph.find_input_layers("features.1.block.2.0") == ["features.1.block.0.0", "features.1.block.1.fc2"]
    assert graph.find_input_layers("features.4.block.0.0") == ["features.2.block.2.0", "features.3.block.2.0"]
    assert graph.find_input_layers("classifier.3") == ["classifier.0"]


def test_efficientnet_b0_has_skips_and_squeeze_and_excitation():
    graph = traced(torchvision.models.efficientnet_b0(), 32)
    assert graph.find_input_layers("features.1.0.block.1.fc1") == ["features.1.0.block.0.0"]
    assert graph.find_input_layers("features.1.0.block.2.0") == [
        "features.1.0.block.0.0", "features.1.0.block.1.fc2"
    ]
    assert graph.find_input_layers("features.3.0.block.0.0") == ["features.2.0.block.3.0", "features.2.1.block.3.0"]
    assert graph.find_input_layers("classifier.1") == ["features.8.0"]


def test_vit_b_16_has_its_residual_stream():
    model = torchvision.models.VisionTransformer(32, 16, 12, 12, 768, 3072, num_classes=10).eval()
    names = [name for name in get_layer_names(model, LAYERS) if not name.endswith("out_proj")]  # never called
    graph = trace_model_graph(model, image(32), names)
    layer = "encoder.layers.encoder_layer_{}".format
    assert graph.find_input_layers(f"{layer(0)}.self_attention") == ["conv_proj"]
    assert graph.find_input_layers(f"{layer(0)}.mlp.0") == ["conv_proj", f"{layer(0)}.self_attention"]
    assert graph.find_input_layers(f"{layer(0)}.mlp.3") == [f"{layer(0)}.mlp.0"]
    assert graph.find_input_layers(f"{layer(1)}.self_attention") == [
        "conv_proj", f"{layer(0)}.self_attention", f"{layer(0)}.mlp.3"
    ]
    assert len(graph.find_input_layers("heads.head")) == 25


class SharedRelu(nn.Module):
    def __init__(self, inplace=False):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(2, 2) for _ in range(4))
        self.relu = nn.ReLU(inplace)

    def forward(self, x):
        return self.d(self.relu(self.c(self.relu(self.b(self.relu(self.a(x)))))))


@pytest.mark.parametrize("inplace", [True, False])
def test_one_relu_used_thrice(inplace):
    graph = trace_model_graph(SharedRelu(inplace), torch.rand(1, 2), ["a", "b", "c", "d"])
    assert [graph.find_input_layers(name) for name in "abcd"] == [[], ["a"], ["b"], ["c"]]


def test_a_shared_module_that_is_shown_has_the_inputs_of_all_its_calls():
    graph = trace_model_graph(SharedRelu(), torch.rand(1, 2), ["a", "relu", "b", "c", "d"])
    assert graph.find_input_layers("relu") == ["a", "b", "c"]
    assert graph.find_input_layers("d") == ["relu"]


def test_in_place_functions_skips_and_slices():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x):
            a = self.a(x)
            b = self.b(torch.relu_(a.clone()))
            b += a
            c = self.c(b[:, :4]).mul_(2)
            joined = torch.cat([c[:, :2], b[:, 2:]], 1)
            return self.d(joined)

    graph = trace_model_graph(Net(), torch.rand(1, 4), ["a", "b", "c", "d"])
    assert [graph.find_input_layers(name) for name in "abcd"] == [[], ["a"], ["a", "b"], ["a", "b", "c"]]


def nested():
    inner = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.ReLU(), nn.Identity()), nn.Conv2d(2, 2, 1))
    return nn.Sequential(inner, nn.ModuleDict({"unused": nn.Linear(1, 1)})["unused"].__class__(3, 3))


def test_nested_containers_and_modules_that_return_their_input():
    model = nested()
    graph = trace_model_graph(model, torch.rand(1, 1, 3, 3), ["0.0", "0.1", "0.2", "1"])
    assert [graph.find_input_layers(name) for name in graph.layer_names] == [[], ["0.0"], ["0.1"], ["0.2"]]
    graph.set_layer_names(["0", "1"])
    assert graph.find_input_layers("1") == ["0"] and graph.find_input_layers("0") == []
    graph.set_layer_names(["0.1.1", "0.1.0", "0.2"])
    assert graph.find_input_layers("0.2") == ["0.1.1"] and graph.find_input_layers("0.1.1") == ["0.1.0"]


def test_layers_in_any_order_come_in_forward_order():
    graph = trace_model_graph(SharedRelu(), torch.rand(1, 2), ["d", "b", "a", "b"])
    assert graph.layer_names == ["a", "b", "d"] and graph.find_input_layers("d") == ["b"]


def test_set_layer_names_passes_through_what_is_not_shown():
    graph = trace_model_graph(SharedRelu(), torch.rand(1, 2), ["a"])
    graph.set_layer_names({"a": None, "d": None})
    assert graph.find_input_layers("d") == ["a"]


def test_printing():
    graph = trace_model_graph(SharedRelu(), torch.rand(1, 2), ["a", "b", "relu"])
    lines = str(graph).splitlines()
    assert [line.split() for line in lines] == [["a", "<-", "(input)"], ["relu", "<-", "a,", "b"], ["b", "<-", "relu"]]
    assert repr(graph) == str(graph)


def test_printing_a_dense_network_stays_legible():
    text = str(traced(torchvision.models.densenet121(), 32))
    assert max(map(len, text.splitlines())) <= 120
    assert "features.denseblock1.denselayer1.conv1" in text


def test_debug_prints_every_call(capsys):
    trace_model_graph(SharedRelu(), torch.rand(1, 2), ["a"], debug=True)
    printed = capsys.readouterr().out
    assert printed.count("relu <-") == 3 and "d <- relu" in printed and "a <- (input)" in printed


def test_unknown_layers():
    model = SharedRelu()
    with pytest.raises(ValueError, match="'rely'; did you mean 'relu'"):
        trace_model_graph(model, torch.rand(1, 2), ["rely"])
    graph = trace_model_graph(model, torch.rand(1, 2), ["a", "b"])
    with pytest.raises(ValueError, match="'bb'; did you mean 'b'"):
        graph.find_input_layers("bb")
    with pytest.raises(ValueError, match="'d'"):
        graph.find_input_layers("d")
    with pytest.raises(ValueError, match="'nothing'"):
        graph.set_layer_names(["a", "nothing"])


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_tracing_leaves_model_and_sample_as_they_are(mode, model_state):
    model, sample = SharedRelu(inplace=True).eval(), torch.randn(1, 2)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    before, values = model_state(model), sample.clone()
    with mode():
        graph = trace_model_graph(model, sample, ["a", "b"])
    assert graph.find_input_layers("b") == ["a"]
    assert model_state(model) == before
    assert torch.equal(sample, values) and not sample.requires_grad and sample.grad is None


def test_a_model_that_fails_keeps_no_hook(model_state):
    model = SharedRelu()
    before = model_state(model)
    with pytest.raises(RuntimeError):
        trace_model_graph(model, torch.rand(1, 5), ["a"])
    assert model_state(model) == before


def test_modules_that_return_tuples_and_inputs_that_are_token_ids():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.lstm, self.attention = nn.Embedding(9, 4), nn.LSTM(4, 4), nn.MultiheadAttention(4, 2)
            self.from_state, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, ids, scale):
            x = self.embedding(ids)
            out, (h, c) = self.lstm(x)
            attended, _ = self.attention(x, x, x)
            return {"logits": self.head(attended + out * scale), "state": self.from_state(h)}

    names = ["embedding", "lstm", "attention", "from_state", "head"]
    inputs = {"ids": torch.tensor([[1, 2, 3]]), "scale": torch.ones(1, 3, 4)}
    graph = trace_model_graph(Text().eval(), inputs, names)
    expected = {
        "embedding": [], "lstm": ["embedding"], "attention": ["embedding"], "from_state": ["lstm"],
        "head": ["lstm", "attention"],
    }
    assert {name: graph.find_input_layers(name) for name in names} == expected


def test_known_bug_graph_tracing_was_recursive_and_slow():
    deep = nn.Sequential(*[nn.Linear(2, 2) for _ in range(1500)])
    names = [str(i) for i in range(1500)]
    start = time.perf_counter()
    graph = trace_model_graph(deep, torch.rand(1, 2), names)
    assert graph.find_input_layers("1499") == ["1498"]
    graph.set_layer_names(["0", "1499"])
    assert graph.find_input_layers("1499") == ["0"]
    assert time.perf_counter() - start < 5


def test_layer_names_and_output_shapes():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), nn.Flatten(), nn.Linear(8, 3))
    assert get_layer_names(model, [nn.Conv2d, nn.Linear]) == ["0.0", "2"]
    shapes = get_output_shapes(model, torch.rand(1, 1, 4, 4), ["2", "0.0", "0.0:in"])
    assert shapes == {"2": (3,), "0.0": (2, 2, 2), "0.0:in": (1, 4, 4)}


def test_modules_that_are_not_called_are_left_out_with_a_warning():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    with pytest.warns(UserWarning, match="idle"):
        graph = trace_model_graph(Idle(), torch.rand(1, 2), ["used", "idle"])
    assert graph.layer_names == ["used"]
