"""Models of any kind: recurrent layers and transformers, inputs and further outputs of their layers."""
import copy

import pytest
import torch
import transformers
from inputs_of_any_kind import LAST, gradient, kept, select
from torch import nn
from zennit.composites import EpsilonPlus, EpsilonPlusFlat

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept


def test_further_outputs_are_addressed_by_number():
    class LastState(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            sequence, (h, c) = self.lstm(x.transpose(0, 1))
            return self.head(sequence[-1] + h[0] * c[0])

    net, data = LastState().eval(), torch.randn(1, 5, 3)
    leaf = data.clone().requires_grad_()
    sequence, (h, c) = net.lstm(leaf.transpose(0, 1))
    output = net.head(sequence[-1] + h[0] * c[0])
    start = select(output, (1,))
    at = {"lstm": sequence, "lstm:0": sequence, "lstm:1": h, "lstm:2": c}
    result = CondAttribution(net)(data, [{"y": [1]}], record_layer=list(at))
    for layer, tensor in at.items():
        torch.testing.assert_close(result.activations[layer], tensor.detach().transpose(0, 1))  # samples first
    torch.testing.assert_close(result.relevances["lstm:2"], gradient(output, c, start).transpose(0, 1))
    torch.testing.assert_close(result.relevances["lstm:1"], gradient(output, h, start).transpose(0, 1))

    through_c = CondAttribution(net, heatmap_axis=None)(data, [{"lstm:2": [3], "y": [1]}], mask_map=LAST).heatmap
    torch.testing.assert_close(through_c, gradient(c, leaf, kept(gradient(output, c, start), [3])))


@pytest.mark.parametrize("address, error", [("lstm:3", "lstm:3.*no tensor"), ("lstm:x", "lstm:x.*'x'")])
def test_further_outputs_that_do_not_exist(text, address, error):
    net, ids = text
    with pytest.raises(ValueError, match=error):
        CondAttribution(net)(ids, [{"y": [0]}], record_layer=[address])


def test_the_input_of_a_layer_holds_the_relevance_that_leaves_its_rule():
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2)).double().eval()
    data = torch.randn(2, 4, dtype=torch.float64)
    net[0].bias.data += 1
    net[2].bias.data += 1
    attribution = CondAttribution(net, heatmap_axis=None)
    free = attribution(data, [{"y": [0]}], EpsilonPlusFlat(), ["2", "2:in", "1", "4:in", "3"])
    x = net[1](net[0](data))
    z = torch.einsum("bi,oi->boi", x, net[2].weight)
    total = z.sum(2) + net[2].bias
    share = z / (total + torch.where(total >= 0, 1e-6, -1e-6))[:, :, None]
    torch.testing.assert_close(free.relevances["2:in"], torch.einsum("boi,bo->bi", share, free.relevances["2"]))
    torch.testing.assert_close(free.relevances["2:in"], free.relevances["1"])
    torch.testing.assert_close(free.relevances["4:in"], free.relevances["3"])
    torch.testing.assert_close(free.activations["2:in"], x)
    by_input, by_output = (
        attribution(data, [{layer: [0, 2], "y": [0]}], EpsilonPlusFlat()).heatmap for layer in ("2:in", "1")
    )
    torch.testing.assert_close(by_input, by_output)
    assert by_input.any()


@pytest.mark.parametrize("composite", [True, False])
def test_a_layer_between_its_output_and_its_input_in_one_condition(composite):
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double().eval()
    data, rules = torch.randn(1, 4, dtype=torch.float64), EpsilonPlusFlat() if composite else None
    attribution = CondAttribution(net)
    result = attribution(data, [{"2": [1], "2:in": [0, 3], "y": [0, 1, 2]}], rules)
    expected = attribution(data, [{"1": [0, 3], "y": [1]}], rules)
    torch.testing.assert_close(result.heatmap, expected.heatmap)
    with pytest.raises(ValueError, match="last to first"):
        attribution(data, [{"2:in": [0], "2": [1], "y": [0]}], rules)


def test_transformer_encoder_layer():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.layer(x))

    net, data = Encoder().eval(), torch.randn(2, 4, 6)
    leaf = data.clone().requires_grad_()
    hidden = net.layer(leaf)
    output = net.head(hidden)
    at_hidden = gradient(output, hidden, select(output, (-1, 2), (0, 1)))
    conditions = [{"layer": [0, 3], "y": [(-1, 2), (0, 1)]}]
    result = CondAttribution(net)(data, conditions, mask_map=LAST, record_layer=["layer", "layer.self_attn"])
    torch.testing.assert_close(result.relevances["layer"], at_hidden, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        result.heatmap, gradient(hidden, leaf, kept(at_hidden, [0, 3])).sum(1), rtol=1e-4, atol=1e-5
    )
    assert result.relevances["layer.self_attn"].any()


@pytest.mark.parametrize("target, message", [
    ((4, 0), "target 4 .*axis 1.* 0 to 3"), ((0, 3), "target 3 .*axis 2.* 0 to 2"), ((0, 0, 0), "more indices"),
    ((0, -4), "target -4 .*axis 2"), (4, "target 4 .*axis 1.* 0 to 3"),
])
def test_targets_of_outputs_with_several_axes_out_of_range(target, message):
    with pytest.raises(IndexError, match=message):
        CondAttribution(nn.Linear(6, 3).eval())(torch.ones(1, 4, 6), [{"y": [target]}])


def test_bert_ends_at_its_word_embeddings(bert):
    ids = torch.tensor([[2, 7, 9, 1], [2, 3, 3, 1]])
    attention_mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    embedded = bert.bert.embeddings.word_embeddings(ids).detach().requires_grad_()
    output = bert(inputs_embeds=embedded, attention_mask=attention_mask).logits
    expected = gradient(output, embedded, select(output, (2,)))
    data = {"input_ids": ids, "attention_mask": attention_mask}
    result = CondAttribution(bert, output="logits")(data, [{"y": [2]}])
    assert set(result.heatmap) == set(data) and result.heatmap["attention_mask"] is None
    torch.testing.assert_close(result.heatmap["input_ids"], expected.sum(-1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(result.prediction, output.detach(), rtol=1e-4, atol=1e-6)
    full = CondAttribution(bert, output="logits", heatmap_axis=None)(data, [{"y": [2]}]).heatmap["input_ids"]
    torch.testing.assert_close(full, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rules", [True, False])
def test_bert_on_condition_of_neurons(bert, rules):
    bert = copy.deepcopy(bert).double()
    data = {"input_ids": torch.tensor([[2, 7, 9, 1]])}
    layers = ["bert.encoder.layer.0", "bert.encoder.layer.1.attention", "bert.encoder.layer.1.intermediate"]
    attribution = CondAttribution(bert, output="logits")
    conditions = [{layer: [i], "y": [0]} for layer in layers[:1] for i in range(16)]
    composite = EpsilonPlusFlat() if rules else None
    parts = list(attribution.generate(data, conditions, composite, layers, LAST, batch_size=5, verbose=False))
    whole = attribution(data, [{"y": [0]}], composite, layers)
    total = torch.cat([part.heatmap["input_ids"] for part in parts]).sum(0)
    torch.testing.assert_close(total, whole.heatmap["input_ids"][0], rtol=1e-6, atol=1e-9)
    assert whole.relevances[layers[1]].shape == (1, 4, 16) and whole.relevances[layers[2]].shape == (1, 4, 24)
    torch.testing.assert_close(parts[0].relevances[layers[1]][0], whole.relevances[layers[1]][0])


def test_gpt2_explains_one_word_at_the_last_position():
    config = transformers.GPT2Config(vocab_size=50, n_positions=8, n_embd=16, n_layer=2, n_head=2)
    model = transformers.GPT2LMHeadModel(config).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    embedded = model.transformer.wte(ids).detach().requires_grad_()
    output = model(inputs_embeds=embedded).logits
    expected = gradient(output, embedded, select(output, (-1, 42)))
    result = CondAttribution(model, output="logits")({"input_ids": ids}, [{"y": [(-1, 42)]}], init_rel=None)
    torch.testing.assert_close(result.heatmap["input_ids"], expected.sum(-1), rtol=1e-4, atol=1e-6)
    first_word = CondAttribution(model, output="logits")({"input_ids": ids}, [{"y": [(0, 42)]}]).heatmap["input_ids"]
    assert first_word[0, 0] != 0 and not first_word[0, 1:].any()
    with pytest.raises(IndexError, match="target 50 .*axis 2.* 0 to 49"):
        CondAttribution(model, output="logits")({"input_ids": ids}, [{"y": [(-1, 50)]}])


def test_vit_of_transformers():
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4,
        num_labels=3,
    )
    model = transformers.ViTForImageClassification(config).eval()
    image = torch.rand(2, 3, 8, 8)
    leaf = image.clone().requires_grad_()
    output = model(leaf).logits
    expected = gradient(output, leaf, select(output, (1,))).sum(1)
    attribution = CondAttribution(model, output="logits")
    names = [name for name, _ in model.named_modules() if name.endswith(("layernorm", "dense"))]
    torch.testing.assert_close(attribution(image, [{"y": [1]}]).heatmap, expected, rtol=1e-4, atol=1e-6)
    result = attribution({"pixel_values": image}, [{"y": [1]}], record_layer=names)
    torch.testing.assert_close(result.heatmap["pixel_values"], expected, rtol=1e-4, atol=1e-6)
    assert result.relevances["vit.layernorm"].shape == (2, 5, 16)


def test_a_feature_axis_in_the_middle_of_a_condition_over_two_layers():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Conv1d(5, 6, 1), nn.Flatten(), nn.Linear(24, 2)).eval()
    data = torch.randn(1, 5, 3)
    leaf = data.clone().requires_grad_()
    first = net[0](leaf)
    second = net[2](first.relu())
    output = net[4](net[3](second))
    at_second = kept(gradient(output, second, select(output, (0,))), [1], 1)
    at_first = kept(gradient(second, first, at_second), [0, 2], -1)
    layer_map = {"0": ChannelConcept(2), "2": ChannelConcept()}
    result = CondAttribution(net, heatmap_axis=-1)(data, [{"2": [1], "0": [0, 2], "y": [0]}], mask_map=layer_map)
    torch.testing.assert_close(result.heatmap, gradient(first, leaf, at_first).sum(-1))


@pytest.mark.parametrize("composite", [EpsilonPlusFlat, EpsilonPlus])
def test_composites_that_fail_on_multihead_attention_let_gradients_through_it(composite, model_state):
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(4, 4)
            self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            x = self.embed(x)
            return self.head(self.attend(x, x, x)[0].mean(1))

    net, data = Attending().eval(), torch.randn(2, 5, 4)
    before, rules = model_state(net), composite()
    result = CondAttribution(net, heatmap_axis=-1, functional=False)(data, [{"y": [1]}], rules, ["attend", "embed"])
    activation = result.activations["embed"].requires_grad_()
    attended = net.attend(activation, activation, activation)[0]
    expected, = torch.autograd.grad(attended, activation, result.relevances["attend"])
    torch.testing.assert_close(result.relevances["embed"], expected)
    assert result.heatmap.shape == (2, 5)
    assert model_state(net) == before and len(rules.handles) == 0
