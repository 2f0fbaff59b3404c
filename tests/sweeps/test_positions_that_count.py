"""Positions that an attention mask hides take no part in what a sweep reads, nor in heatmaps of references."""
import numpy as np
import pytest
import torch
from padded_text import HEADS, SENTENCES, Reader, item
from small_sweeps import Items
from zennit.composites import EpsilonPlus

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept, Concept, HeadConcept, Reading
from crp.model.positions import counting_positions
from crp.model.samples import SampleError
from crp.visualization import FeatureVisualization, WithoutTokens

pytestmark = pytest.mark.usefixtures("quick")
LAYERS = {"inner": ChannelConcept(-1), "mix": HeadConcept(HEADS), "pooled": ChannelConcept()}


def padded(items):
    """What a collator of sentences does: as long as the longest of the batch."""
    length = max(len(each["tokens"]) for each in items)
    rows = [item(each["tokens"], length, each["left"], each["labels"]) for each in items]
    return {key: torch.stack([torch.as_tensor(row[key]) for row in rows]) for key in rows[0]}


def view(path, items, layers=None, **options):
    attribution = CondAttribution(Reader().eval())
    return FeatureVisualization(attribution, Items(items), layers or LAYERS, path=path, **options)


def swept(path, items, batch_size=4, layers=None, max_target="max", **options):
    fv = view(path, items, layers, max_target=max_target, **options)
    return fv.run(EpsilonPlus(), 0, len(items), batch_size)


def restated(tokens, layer, quantity):
    """[concepts, positions] of a sentence alone, without any padding."""
    ids = torch.tensor([tokens])
    data = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    result = CondAttribution(Reader().eval())(data, [{"y": [0]}], EpsilonPlus(), [layer])
    tensor = (result.activations if quantity == "activation" else result.relevances)[layer][0]
    if layer == "mix":
        tensor = tensor.unflatten(-1, (HEADS, -1)).sum(-1)
    return (tensor.T if tensor.ndim > 1 else tensor[:, None]).detach()


@pytest.mark.parametrize("quantity", ["activation", "relevance"])
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("length", [7, 20])
def test_rows_are_those_of_sentences_without_padding(tmp_path, length, left, quantity):
    store = swept(tmp_path / "padded", [item(tokens, length, left) for tokens in SENTENCES])
    for layer in store.layers:
        for i, tokens in enumerate(SENTENCES):
            expected = restated(tokens, layer, quantity)
            np.testing.assert_allclose(store.values(layer, quantity)[i], expected.sum(1), atol=1e-6)
            largest = expected.amax(1)
            np.testing.assert_allclose(store.values(layer, quantity, statistic="max")[i], largest, atol=1e-6)
            if layer != "pooled":
                place = np.array(store.positions(layer, quantity)[i]) - (length - len(tokens) if left else 0)
                np.testing.assert_allclose(expected[range(len(place)), place], largest, atol=1e-6)


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_collated_batches_give_the_same_rows_in_any_company(tmp_path, left):
    items = [{"tokens": tokens, "left": left, "labels": 0} for tokens in SENTENCES]
    stores = [swept(tmp_path / str(size), items, size, collate_fn=padded) for size in (1, 4, 11)]
    for layer in stores[0].layers:
        for quantity in ("activation", "relevance"):
            rows = [np.asarray(store.values(layer, quantity)[:]) for store in stores]
            places = [np.asarray(store.positions(layer, quantity)[:]) for store in stores]
            for other in (1, 2):
                np.testing.assert_allclose(rows[other], rows[0], atol=1e-6)
                assert (places[other] == places[0]).mean() > .99


def test_without_a_mask_all_positions_count(tmp_path):
    items = [item(tokens, 20, False) for tokens in SENTENCES]
    hidden, shown = swept(tmp_path / "a", items), swept(tmp_path / "b", items, position_mask=None)
    assert not np.allclose(hidden.values("inner", "activation")[:], shown.values("inner", "activation")[:], atol=1)
    with pytest.raises(Exception, match="dataset.positions"):
        view(tmp_path / "a", items, max_target="max", position_mask=None).get_max_reference(0, "inner", "activation")


def test_special_tokens_are_left_out_by_choice(tmp_path):
    special = 2
    items = [item([special, *tokens, special], 12, False) for tokens in SENTENCES]
    store = swept(tmp_path, items, position_mask=WithoutTokens([special]))
    for i, tokens in enumerate(SENTENCES):
        ids = torch.tensor([[special, *tokens, special]])
        data = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        result = CondAttribution(Reader().eval())(data, [{"y": [0]}], EpsilonPlus(), ["inner"])
        expected = result.activations["inner"][0, 1:-1].sum(0).detach()
        np.testing.assert_allclose(store.values("inner", "activation")[i], expected, atol=1e-5)
        assert (1 <= np.asarray(store.positions("inner", "activation")[i])).all()
        assert (np.asarray(store.positions("inner", "activation")[i]) <= len(tokens)).all()


def test_both_axes_of_attention_hide_padding(tmp_path):
    class Pairs(Concept):
        """The whole of a layer [B, T, T] as one concept."""

        def read(self, tensor, layer_name=None, max_target="sum"):
            flat = tensor.flatten(1)
            return Reading(flat.sum(1, keepdim=True), flat.argmax(1, keepdim=True))

        def mask(self, batch_id, concept_ids, layer_name=None):
            return lambda relevance: relevance

        def position_shape(self, output_shape, layer_name=None):
            return tuple(output_shape)

    items = [item(tokens, 9, True) for tokens in SENTENCES]
    store = swept(tmp_path, items, layers={"scores": Pairs()}, max_target="sum")
    for i, tokens in enumerate(SENTENCES):  # attention of each shown position sums to one
        assert store.values("scores", "activation")[i, 0] == pytest.approx(len(tokens), abs=1e-5)
        query, key = divmod(int(store.positions("scores", "activation")[i, 0]), 9)
        assert min(query, key) >= 9 - len(tokens)


def test_heatmaps_of_references_start_at_positions_that_count(tmp_path):
    fv = view(tmp_path, [item(tokens, 15, False) for tokens in SENTENCES])
    fv.run(EpsilonPlus(), 0, len(SENTENCES), 4)
    store = fv._results("activation")
    inputs, heatmaps = fv.get_max_reference(1, "inner", "activation", (0, 4), EpsilonPlus(), plot_fn=None)[1]
    for slot, sample in enumerate(store.top("inner", 1, "activation", 4).samples):
        ids = torch.tensor([SENTENCES[sample]])
        data = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        expected = CondAttribution(Reader().eval())(
            data, [{"inner": [1]}], EpsilonPlus(), mask_map=ChannelConcept(-1), start_layer="inner"
        ).heatmap["input_ids"]
        length = len(SENTENCES[sample])
        torch.testing.assert_close(heatmaps["input_ids"][slot, :length], expected[0], atol=1e-5, rtol=1e-4)
        assert not heatmaps["input_ids"][slot, length:].any()


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_a_single_neuron_of_a_collated_reference_is_found_again(tmp_path, left):
    items = [{"tokens": tokens, "left": left, "labels": 0} for tokens in SENTENCES]
    fv = view(tmp_path, items, collate_fn=padded)
    fv.run(EpsilonPlus(), 0, len(items), 11)
    top = fv._results("activation").top("inner", 1, "activation", 3)
    inputs, heatmaps = fv.get_max_reference(1, "inner", "activation", (0, 3), EpsilonPlus(), rf=True, plot_fn=None)[1]
    for slot, sample in enumerate(top.samples):
        assert top.positions[slot] == restated(SENTENCES[sample], "inner", "activation")[1].argmax()
        ids = torch.tensor([SENTENCES[sample]])
        data = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        expected = CondAttribution(Reader().eval())(
            data, [{"inner": {1: [int(top.positions[slot])]}}], EpsilonPlus(), mask_map=ChannelConcept(-1).mask_rf,
            start_layer="inner",
        ).heatmap["input_ids"]
        torch.testing.assert_close(heatmaps[slot]["input_ids"], expected[0], atol=1e-5, rtol=1e-4)


def test_a_mask_that_is_none_is_refused(tmp_path):
    items = [item(tokens, 9, False) for tokens in SENTENCES]
    with pytest.raises(ValueError, match=r"\[samples, positions\].*\(1, 9, 1\)"):
        swept(tmp_path / "a", items, position_mask=lambda inputs: inputs["input_ids"][..., None])
    items[5]["attention_mask"] = torch.zeros(9, dtype=torch.long)
    with pytest.raises(SampleError, match="^sample 5: .*no position"):
        swept(tmp_path / "b", items)
    fv = view(tmp_path / "c", items)
    assert list(fv.run(EpsilonPlus(), 0, len(items), 4, on_error="skip").skipped) == [5]


def test_masks_of_other_kinds_hide_nothing():
    assert counting_positions("attention_mask", torch.rand(2, 3)) is None
    assert counting_positions("attention_mask", {"attention_mask": torch.ones(2, 1, 3, 3)}) is None
    assert counting_positions("attention_mask", {"attention_mask": torch.ones(2, 3)}) is None
    shown = counting_positions("attention_mask", {"attention_mask": torch.tensor([[1, 0], [1, 1]])})
    assert shown.tolist() == [[True, False], [True, True]]


def test_positions_that_are_taken_for_concepts_are_told(tmp_path):
    items = [item(tokens, 20, False) for tokens in SENTENCES]
    with pytest.raises(ValueError, match=r"'inner' has the shape .* ChannelConcept\(axis=-1\)"):
        swept(tmp_path, items, layers={"inner": ChannelConcept()})
