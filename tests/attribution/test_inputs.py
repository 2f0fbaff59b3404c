"""Inputs of any kind: ranks, tuples, dicts, token ids."""
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs_of_any_kind import LAST, gradient, kept, select
from torch import nn
from zennit.composites import EpsilonPlus, EpsilonPlusFlat

from crp.attribution import CondAttribution

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
    class Number(nn.Module):
        def forward(self, ids):
            return ids.float()[:, None]

    with pytest.raises(ValueError, match="nn.Embedding"):
        CondAttribution(Number().eval())(torch.tensor([1]), [{"y": [0]}])

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


def test_an_input_with_one_number_per_sample_keeps_its_heatmap():
    class Scaled(nn.Module):
        def forward(self, x, scale):
            return x * scale[:, None]

    x, scale = torch.rand(2, 3), torch.rand(2)
    heatmaps = CondAttribution(Scaled())((x, scale), [{"y": [1]}]).heatmap
    torch.testing.assert_close(heatmaps[1], x[:, 1] ** 2 * scale)


def flat_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()


def test_a_missing_batch_axis_is_named(model_state):
    model = flat_net()
    before = model_state(model)
    with pytest.raises(ValueError, match=r"batch axis is missing.*\(3, 8, 8\).*data\[None\]"):
        CondAttribution(model)(torch.rand(3, 8, 8), [{"y": [0]}], EpsilonPlus())
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(0), nn.Linear(4, 2)).eval()
    with pytest.raises(ValueError, match=r"output has the shape \(2,\), but there are 3 samples"):
        CondAttribution(pooled)(torch.rand(3, 8, 8), [{"y": [0]}], EpsilonPlus())
    assert model_state(model) == before


def test_an_axis_too_many_is_named():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(5 * 4, 2)).eval()
    tokens = torch.randint(9, (2, 5))

    class Checked(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, input_ids):
            batch, length = input_ids.shape
            return self.net(input_ids)

    with pytest.raises(ValueError, match=r"axis of length 1 too many in data of the shape \(2, 1, 5\)"):
        CondAttribution(Checked().eval())({"input_ids": tokens[:, None]}, [{"y": [0]}], EpsilonPlus())


def test_another_fault_of_the_shape_stays_what_it_is():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        CondAttribution(flat_net())(torch.rand(2, 3, 9, 9), [{"y": [0]}], EpsilonPlus())


def test_a_sum_over_the_only_axis_is_told():
    model, x = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), torch.rand(5, 20)
    with pytest.warns(UserWarning, match=r"data \[5, 20\] sums over its only axis.*heatmap_axis=None"):
        assert CondAttribution(model)(x, [{"y": [0]}], EpsilonPlus()).heatmap.shape == (5,)


@pytest.mark.filterwarnings("error")
def test_other_heatmaps_are_not_told_to_be_sums():
    model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.rand(5, 20)
    assert CondAttribution(model, heatmap_axis=None)(x, [{"y": [0]}], EpsilonPlus()).heatmap.shape == (5, 20)
    CondAttribution(model)(x, [{"y": [0]}], EpsilonPlus(), heatmap=False, record_layer=["0"])
    tokens = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 2)).eval()
    CondAttribution(tokens)(torch.randint(9, (2, 5)), [{"y": [0]}], EpsilonPlus())
