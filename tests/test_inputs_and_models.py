"""Inputs of any kind and models of any kind: ranks, tuples, dicts, token ids, recurrent and transformer layers."""
import copy

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from zennit.composites import EpsilonPlus, EpsilonPlusFlat

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept

LAST = ChannelConcept(-1)


def kept(tensor, ids, axis=-1):
    """The tensor with everything but some channels set to zero."""
    keep = torch.zeros(tensor.shape[axis], dtype=tensor.dtype)
    keep[list(ids)] = 1
    return tensor * torch.movedim(keep.view(-1, *[1] * (tensor.ndim - 1)), 0, axis % tensor.ndim)


def gradient(start, at, relevance=None):
    return torch.autograd.grad(start, at, start if relevance is None else relevance, retain_graph=True)[0]


def select(output, *targets):
    """The output where it is selected, elsewhere zero: the relevance to start with."""
    selected = torch.zeros_like(output)
    for target in targets:
        selected[(slice(None), *target)] = output.detach()[(slice(None), *target)]
    return selected


RANKS = {
    2: (nn.Linear, (4, 5), (4,)), 3: (nn.Conv1d, (4, 5, 3), (4, 8)), 4: (nn.Conv2d, (4, 5, 3), (4, 6, 7)),
    5: (nn.Conv3d, (4, 5, 3), (4, 4, 5, 6)),
}


@pytest.mark.parametrize("rank", RANKS)
def test_inputs_of_any_rank(rank):
    layer, arguments, shape = RANKS[rank]
    net = nn.Sequential(layer(*arguments), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).eval()
    data = torch.rand(2, *shape)
    net(data)
    result = CondAttribution(net)(data, [{"0": [1, 3], "y": [2]}], record_layer=["0"])
    leaf = data.clone().requires_grad_()
    hidden = net[0](leaf)
    output = net[3](net[2](hidden.relu()))
    at_hidden = gradient(output, hidden, select(output, (2,)))
    torch.testing.assert_close(result.relevances["0"], at_hidden)
    expected = gradient(hidden, leaf, kept(at_hidden, [1, 3], 1))
    torch.testing.assert_close(result.heatmap, expected.sum(1))
    rules = CondAttribution(net, heatmap_axis=None)(data, [{"y": [2]}], EpsilonPlusFlat())
    assert rules.heatmap.shape == data.shape and rules.heatmap.any()


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 3), st.data())
def test_any_shape_and_heatmap_axis(shape, samples, data):
    axis = data.draw(st.none() | st.integers(1, len(shape)) | st.integers(-len(shape), -1))
    x = torch.randn(samples, *shape)
    net = nn.Sequential(nn.Tanh(), nn.Flatten())
    heatmap = CondAttribution(net.eval(), heatmap_axis=axis)(x, [{"y": [0]}] * samples, init_rel=1).heatmap
    expected = torch.zeros_like(x)
    expected.view(samples, -1)[:, 0] = 1 - x.view(samples, -1)[:, 0].tanh() ** 2
    torch.testing.assert_close(heatmap, expected if axis is None else expected.sum(axis))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, left, right, scale=2.0):
        return self.head((self.a(left) * self.b(right)).relu() * scale)


def test_tuple_and_dict_data_give_heatmaps_of_the_same_structure():
    net = TwoInputs().eval()
    left, right = torch.randn(2, 3, requires_grad=True), torch.randn(2, 2, requires_grad=True)
    output = net(left, right)
    expected = [gradient(output, tensor, select(output, (1,))) for tensor in (left, right)]
    attribution = CondAttribution(net, heatmap_axis=None)
    as_tuple = attribution((left.detach(), right.detach()), [{"y": [1]}]).heatmap
    as_list = attribution([left.detach(), right.detach()], [{"y": [1]}]).heatmap
    as_dict = attribution({"right": right.detach(), "left": left.detach()}, [{"y": [1]}]).heatmap
    assert isinstance(as_tuple, tuple) and isinstance(as_dict, dict) and set(as_dict) == {"left", "right"}
    for heatmaps in (as_tuple, as_list, (as_dict["left"], as_dict["right"])):
        for heatmap, value in zip(heatmaps, expected, strict=True):
            torch.testing.assert_close(heatmap, value)


@pytest.mark.parametrize("as_dict", [True, False])
def test_structured_data_in_the_cross_product_and_in_generate(as_dict):
    net = TwoInputs().eval()
    left, right = torch.randn(2, 3), torch.randn(2, 2)
    conditions = [{"a": [0], "y": [0]}, {"b": [1], "y": [1]}, {"head": [2], "y": [2]}]

    def pack(a, b):
        return {"left": a, "right": b, "scale": 3.0} if as_dict else (a, b, 3.0)

    def unpack(heatmap):
        return [heatmap["left"], heatmap["right"]] if as_dict else list(heatmap[:2])

    attribution = CondAttribution(net, heatmap_axis=None)
    product = unpack(attribution(pack(left, right), conditions).heatmap)
    for sample in range(2):
        one = pack(left[[sample]], right[[sample]])
        parts = [unpack(r.heatmap) for r in attribution.generate(one, conditions, batch_size=2, verbose=False)]
        for whole, part in zip(product, zip(*parts)):
            torch.testing.assert_close(torch.cat(part), whole[3 * sample:3 * sample + 3])
    for row, condition in enumerate(conditions):
        alone = unpack(attribution(pack(left[[0]], right[[0]]), [condition]).heatmap)
        for whole, heatmap in zip(product, alone):
            torch.testing.assert_close(whole[row], heatmap[0])
    assert product[0].any() and product[1].any()


def test_structured_data_with_unequal_numbers_of_samples_is_refused():
    with pytest.raises(ValueError, match=r"number of samples: \[1, 2\]"):
        CondAttribution(TwoInputs().eval())((torch.ones(1, 3), torch.ones(2, 2)), [{"y": [0]}])


def test_gradients_of_structured_data():
    net = TwoInputs().eval()
    left, right = torch.randn(1, 3, requires_grad=True), torch.randn(1, 2)
    heatmaps = CondAttribution(net, heatmap_axis=None)((left, right), [{"y": [0]}]).heatmap
    torch.testing.assert_close(left.grad, heatmaps[0])
    assert right.grad is None and heatmaps[1].any()


class Text(nn.Module):
    """Token ids through an embedding, an LSTM and attention."""

    def __init__(self):
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(11, 6), nn.LSTM(6, 6, batch_first=True)
        self.attention, self.head = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 4)

    def from_embedding(self, x):
        x = self.lstm(x)[0]
        return self.head(self.attention(x, x, x)[0]).mean(1)

    def forward(self, ids):
        return self.from_embedding(self.embedding(ids))


@pytest.fixture
def text():
    return Text().eval(), torch.tensor([[1, 4, 4, 10], [0, 1, 2, 3]])


def test_relevance_of_token_ids_ends_at_the_embedding(text):
    net, ids = text
    embedded = net.embedding(ids).detach().requires_grad_()
    output = net.from_embedding(embedded)
    expected = gradient(output, embedded, select(output, (3,)))
    result = CondAttribution(net)(ids, [{"y": [3]}], record_layer=["embedding"])
    torch.testing.assert_close(result.heatmap, expected.sum(-1))
    torch.testing.assert_close(CondAttribution(net, heatmap_axis=None)(ids, [{"y": [3]}]).heatmap, expected)
    torch.testing.assert_close(result.relevances["embedding"], expected)
    torch.testing.assert_close(result.activations["embedding"], embedded.detach())
    assert ids.dtype == torch.long and ids.tolist() == [[1, 4, 4, 10], [0, 1, 2, 3]]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_token_ids_without_grad_mode_and_in_inference_mode(text, mode):
    net, ids = text
    expected = CondAttribution(net)(ids, [{"y": [3]}]).heatmap
    with mode():
        result = CondAttribution(net)(ids.clone(), [{"y": [3]}]).heatmap
    torch.testing.assert_close(result, expected)
    assert expected.any()


@pytest.mark.parametrize("target", [0, 99])
def test_nothing_stays_on_a_model_of_token_ids(text, target, model_state):
    net, ids = text
    before = model_state(net)
    try:
        CondAttribution(net)(ids, [{"lstm": [0], "y": [target]}], None, ["attention"], LAST)
    except IndexError:
        assert target == 99
    assert model_state(net) == before


def test_channels_of_an_embedding_are_masked_on_the_last_axis(text):
    net, ids = text
    free = CondAttribution(net, heatmap_axis=None)(ids, [{"y": [0]}]).heatmap
    masked = CondAttribution(net, heatmap_axis=None)(ids, [{"embedding": [2], "y": [0]}], mask_map=LAST).heatmap
    torch.testing.assert_close(masked, kept(free, [2]))


def test_token_ids_in_the_cross_product_generate_and_rounds(text):
    net, ids = text
    attribution = CondAttribution(net)
    conditions = [{"lstm": [0], "y": [0]}, {"y": [1]}, {"embedding": [3], "y": [2]}]
    product = attribution(ids, conditions, mask_map=LAST).heatmap
    assert product.shape == (6, 4)
    for sample in range(2):
        one = ids[[sample]]
        alone = torch.cat([attribution(one, [condition], mask_map=LAST).heatmap for condition in conditions])
        parts = attribution.generate(one, conditions, mask_map=LAST, batch_size=2, verbose=False)
        torch.testing.assert_close(torch.cat([part.heatmap for part in parts]), alone)
        torch.testing.assert_close(product[3 * sample:3 * sample + 3], alone)


def test_an_overridden_heatmap_modifier_with_the_documented_arguments_works_for_token_ids(text):
    class Own(CondAttribution):
        def heatmap_modifier(self, data, on_device=None):
            return data.grad.abs().sum(-1)

    net, ids = text
    full = CondAttribution(net, heatmap_axis=None)(ids, [{"y": [0]}]).heatmap
    torch.testing.assert_close(Own(net)(ids, [{"y": [0]}]).heatmap, full.abs().sum(-1))


def test_two_kinds_of_ids_end_at_their_own_embeddings():
    class TwoVocabularies(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.places, self.head = nn.Embedding(5, 3), nn.Embedding(5, 3), nn.Linear(3, 2)

        def forward(self, words, places):
            return self.head((self.words(words) * self.places(places)).mean(1))

    net = TwoVocabularies().eval()
    words, places = torch.tensor([[1, 2]]), torch.tensor([[1, 2]])
    a, b = net.words(words).detach().requires_grad_(), net.places(places).detach().requires_grad_()
    output = net.head((a * b).mean(1))
    heatmaps = CondAttribution(net, heatmap_axis=None)({"places": places, "words": words}, [{"y": [0]}]).heatmap
    torch.testing.assert_close(heatmaps["words"], gradient(output, a, select(output, (0,))))
    torch.testing.assert_close(heatmaps["places"], gradient(output, b, select(output, (0,))))


def test_positions_that_equal_the_token_ids_are_not_taken_for_them():
    class PositionsFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.places, self.words, self.head = nn.Embedding(5, 3), nn.Embedding(5, 3), nn.Linear(3, 2)

        def forward(self, ids):
            places = self.places(torch.arange(ids.shape[1]))
            return self.head((self.words(ids) * places).mean(1))

    net, ids = PositionsFirst().eval(), torch.tensor([[0, 1, 2]])
    words = net.words(ids).detach().requires_grad_()
    output = net.head((words * net.places(torch.arange(3))).mean(1))
    heatmap = CondAttribution(net, heatmap_axis=None)(ids, [{"y": [0]}]).heatmap
    torch.testing.assert_close(heatmap, gradient(output, words, select(output, (0,))))


def test_ids_that_are_looked_up_twice_carry_the_relevance_of_both():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(5, 3)

        def forward(self, ids):
            return self.words(ids).sum(1) + 2 * self.words(ids).sum(1)

    net = Twice().eval()
    heatmap = CondAttribution(net, heatmap_axis=None)(torch.tensor([[3, 4]]), [{"y": [1]}], init_rel=1).heatmap
    assert heatmap.tolist() == [[[0, 3, 0], [0, 3, 0]]]


def test_any_mapping_holds_keyword_arguments(bert):
    ids = {"input_ids": torch.tensor([[2, 7, 9, 1]])}
    attribution = CondAttribution(bert, output="logits")
    from_tokenizer = attribution(transformers.BatchEncoding(ids), [{"y": [2]}]).heatmap
    torch.testing.assert_close(from_tokenizer["input_ids"], attribution(ids, [{"y": [2]}]).heatmap["input_ids"])


def test_integers_that_no_embedding_looks_up_have_no_heatmap():
    class OneHot(nn.Module):
        def forward(self, ids):
            return nn.functional.one_hot(ids, 3).float()

    with pytest.raises(ValueError, match="nn.Embedding"):
        CondAttribution(OneHot().eval())(torch.tensor([1]), [{"y": [0]}])

    class Gate(nn.Module):
        def forward(self, x, gate):
            return x * gate

    heatmaps = CondAttribution(Gate().eval(), heatmap_axis=None)(
        (torch.ones(1, 2), torch.tensor([[True, False]])), [{"y": [0, 1]}], init_rel=1
    ).heatmap
    assert heatmaps[0].tolist() == [[1., 0.]] and heatmaps[1] is None


@pytest.mark.parametrize("exclude_parallel", [True, False])
def test_known_bug_lstm_and_attention_return_tuples_and_failed(text, exclude_parallel):
    net, ids = text
    conditions = [{"attention": [1], "lstm": [0, 5], "y": [3]}, {"lstm": [2], "y": [0]}]
    result = CondAttribution(net, heatmap_axis=None)(
        ids[:1], conditions, mask_map=LAST, record_layer=["attention", "lstm"], exclude_parallel=exclude_parallel
    )
    for row, condition in enumerate(conditions):
        x = net.embedding(ids[:1]).detach().requires_grad_()
        sequence = net.lstm(x)[0]
        attended = net.attention(sequence, sequence, sequence)[0]
        output = net.head(attended).mean(1)
        at_attended = gradient(output, attended, select(output, (condition["y"][0],)))
        passed = kept(at_attended, condition["attention"]) if "attention" in condition else at_attended
        at_sequence = gradient(attended, sequence, passed)
        torch.testing.assert_close(result.relevances["attention"][[row]], at_attended)
        torch.testing.assert_close(result.relevances["lstm"][[row]], at_sequence)
        torch.testing.assert_close(
            result.heatmap[[row]], gradient(sequence, x, kept(at_sequence, condition["lstm"]))
        )


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
        torch.testing.assert_close(result.activations[layer], tensor.detach())
    torch.testing.assert_close(result.relevances["lstm:2"], gradient(output, c, start))
    torch.testing.assert_close(result.relevances["lstm:1"], gradient(output, h, start))

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


def test_an_id_selects_all_of_the_remaining_axes():
    net, data = nn.Linear(6, 3).eval(), torch.randn(2, 4, 6)
    leaf = data.clone().requires_grad_()
    output = net(leaf)
    result = CondAttribution(net)(data, [{"y": [1]}])
    torch.testing.assert_close(result.heatmap, gradient(output, leaf, select(output, (1,))).sum(1))


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_labels=3
    )
    return transformers.BertForSequenceClassification(config).eval()


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


class ManyOutputs(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.body, self.kind = nn.Linear(3, 2), kind

    def forward(self, x):
        first, second = self.body(x), self.body(x) ** 2
        return {"a": first, "b": second} if self.kind is dict else self.kind([first, second])


@pytest.mark.parametrize("kind, output", [
    (dict, "b"), (tuple, 1), (list, 1), (tuple, -1), (dict, lambda found: found["b"]), (tuple, lambda found: found[1]),
])
def test_which_output_is_y(kind, output):
    net, data = ManyOutputs(kind).eval(), torch.randn(2, 3)
    leaf = data.clone().requires_grad_()
    y = net.body(leaf) ** 2
    result = CondAttribution(net, output=output, heatmap_axis=None)(data, [{"y": [1]}])
    torch.testing.assert_close(result.heatmap, gradient(y, leaf, select(y, (1,))))
    torch.testing.assert_close(result.prediction, y.detach())


@pytest.mark.parametrize("kind, output, message", [
    (dict, None, r"dict with \['a', 'b'\].*output="), (tuple, None, "tuple with 2 tensors.*output="),
    (dict, "c", r"output='c'.*\['a', 'b'\]"), (tuple, 2, "output=2.*2 tensors"), (tuple, "a", "output='a'"),
])
def test_an_output_that_is_not_clear_is_an_error(kind, output, message, model_state):
    net = ManyOutputs(kind).eval()
    before = model_state(net)
    with pytest.raises(ValueError, match=message):
        CondAttribution(net, output=output)(torch.ones(1, 3), [{"y": [0]}])
    assert model_state(net) == before


def test_a_function_chooses_from_a_plain_tensor_too():
    net, data = nn.Linear(3, 2).eval(), torch.randn(1, 3)
    leaf = data.clone().requires_grad_()
    y = net(leaf).softmax(1)
    result = CondAttribution(net, output=lambda logits: logits.softmax(1), heatmap_axis=None)(data, [{"y": [0]}])
    torch.testing.assert_close(result.heatmap, gradient(y, leaf, select(y, (0,))))


def test_the_only_tensor_of_an_output_needs_no_name():
    class Wrapped(nn.Module):
        def forward(self, x):
            return {"logits": x * 3, "loss": None}

    assert CondAttribution(Wrapped().eval(), heatmap_axis=None)(
        torch.ones(1, 2), [{"y": [1]}]
    ).heatmap.tolist() == [[0., 9.]]


@pytest.mark.parametrize("ids", [[0], 0, [], [()]])
def test_outputs_of_one_axis(ids):
    class Scalar(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(3, 1)

        def forward(self, x):
            return self.body(x).squeeze(-1)

    net, data = Scalar().eval(), torch.randn(4, 3)
    result = CondAttribution(net, heatmap_axis=None)(data, [{"y": ids}])
    expected = net.body.weight.detach() * net(data).detach()[:, None]
    torch.testing.assert_close(result.heatmap, expected * 0 if ids == [] else expected)
    with pytest.raises(IndexError, match="1"):
        CondAttribution(net)(data, [{"y": [1]}])


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


def test_an_input_with_one_number_per_sample_keeps_its_heatmap():
    class Scaled(nn.Module):
        def forward(self, x, scale):
            return x * scale[:, None]

    x, scale = torch.rand(2, 3), torch.rand(2)
    heatmaps = CondAttribution(Scaled())((x, scale), [{"y": [1]}]).heatmap
    torch.testing.assert_close(heatmaps[1], x[:, 1] ** 2 * scale)
