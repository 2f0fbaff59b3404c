"""What a report measures, against slow restatements and networks where the answer is known."""
import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import nn
from torch.utils.data import TensorDataset
from trusted import dataset, swept
from zennit.composites import EpsilonPlus

from crp.composites import LanguageModel
from crp.concepts import ChannelConcept, DirectionConcept, HeadConcept
from crp.store import StoreError
from crp.trust.clearness import clearness
from crp.trust.flipping import flip_concepts, remove_each
from crp.trust.intervals import mean_of_rows
from crp.trust.randomisation import modules_above, randomise_above, row_correlation, shaken
from crp.trust.removal import Elements
from crp.trust.resampling import halves_agree
from crp.trust.rows import SampledRows
from crp.visualization import FeatureVisualization

pytestmark = pytest.mark.usefixtures("quick")


def rows_of(fv, layer, composite, samples=12, held_out=None):
    return SampledRows(fv, layer, composite, held_out, samples, 5)


@pytest.fixture(scope="module")
def swept_network(tmp_path_factory):
    return swept(tmp_path_factory.mktemp("trust") / "store")


def test_rows_are_samples_from_all_over_the_dataset_with_what_the_sweep_found(swept_network):
    fv, composite = swept_network
    rows = rows_of(fv, "1", composite)
    numbers = np.linspace(0, 59, 12).round().astype(int)
    store = fv.open_store(composite)
    np.testing.assert_allclose(rows.relevance, store.values("1", normalised=False)[numbers], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(rows.activation, store.values("1", "activation", normalised=False)[numbers], rtol=1e-5)
    images, classes = fv.dataset.tensors
    with torch.no_grad():
        expected = fv.attribution.model(images[numbers])[range(12), classes[numbers]]
    np.testing.assert_allclose(rows.started, expected, rtol=1e-5)
    others = rows_of(fv, "1", composite, held_out=dataset(30, seed=7))
    assert not np.allclose(others.relevance, rows.relevance)


@pytest.mark.parametrize("layer", ["1", "5"])
def test_flipping_is_the_answer_without_the_first_concepts_of_each_row(swept_network, layer):
    fv, composite = swept_network
    rows = rows_of(fv, layer, composite)
    flipping = flip_concepts(rows, 4, 3, 0, False)
    model, split = fv.attribution.model, int(layer) + 1
    inputs = torch.cat([batch.inputs for batch in rows.batches])
    targets = np.concatenate([batch.targets for batch in rows.batches])
    with torch.no_grad():
        activations = model[:split](inputs)

    def answers(kept):
        shape = (*kept.shape, *[1] * (activations.ndim - 2))
        with torch.no_grad():
            return model[split:](activations * torch.from_numpy(kept).view(shape))[range(12), targets].double().numpy()

    count = rows.relevance.shape[1]
    whole, nothing = (answers(np.full((12, count), value)) for value in (True, False))
    span = np.abs(whole - nothing).mean()
    assert flipping.span == pytest.approx(span, rel=1e-4)
    for order, scores in (("relevance", rows.relevance), ("activation", rows.activation)):
        place = np.argsort(np.argsort(-scores, 1, kind="stable"), 1)
        for step, fraction in enumerate(flipping.fractions):
            k = round(fraction * count)
            for found, kept in ((flipping.removed, place >= k), (flipping.inserted, place < k)):
                expected = (answers(kept) - nothing).mean() / span
                assert found[order][step] == pytest.approx(expected, abs=1e-4)
        gap = np.trapezoid(flipping.inserted[order] - flipping.removed[order], flipping.fractions)
        assert flipping.gaps[order].value == pytest.approx(gap, abs=1e-6)
        assert flipping.gaps[order].lower <= flipping.gaps[order].value <= flipping.gaps[order].upper


def test_relevance_of_a_linear_model_is_faithful_and_turned_around_it_is_not(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 12), nn.Identity(), nn.Linear(12, 3)).eval()
    data = TensorDataset(torch.rand(40, 12) + 1, torch.zeros(40, dtype=torch.long))
    with torch.no_grad():
        model[2].bias.zero_()

    class Turned(ChannelConcept):
        def read(self, tensor, layer_name=None, max_target="sum"):
            return super().read(-tensor, layer_name, max_target)

    gaps = {}
    for name, concept in {"right": ChannelConcept(), "turned": Turned()}.items():
        fv, composite = swept(tmp_path / name, model, {"1": concept}, data, LanguageModel())
        flipping = flip_concepts(rows_of(fv, "1", composite), 12, 8, 0, False)
        gaps[name] = flipping.gaps["relevance"].value
        assert flipping.beats_chance == (name == "right")
    assert gaps["right"] > .5 and gaps["turned"] < -.5
    rows = rows_of(swept(tmp_path / "again", model, {"1": ChannelConcept()}, data, LanguageModel())[0], "1",
                   LanguageModel())
    effects = remove_each(rows, np.arange(12), 12, 5, 0, False)
    np.testing.assert_allclose(effects.effect, rows.relevance.mean(0), rtol=1e-4, atol=1e-5)  # it is what it says


def test_single_concepts_are_taken_away_at_their_own_rows(swept_network):
    fv, composite = swept_network
    rows = rows_of(fv, "5", composite)
    effects = remove_each(rows, np.array([3, 0]), 2, 5, 0, False)
    model = fv.attribution.model
    inputs = torch.cat([batch.inputs for batch in rows.batches])
    targets = np.concatenate([batch.targets for batch in rows.batches])
    for place, concept in enumerate((3, 0)):
        best = np.argsort(-np.abs(rows.relevance[:, concept]), kind="stable")[:2]
        best = [row for row in best if rows.relevance[row, concept] != 0]
        with torch.no_grad():
            hidden = model[:6](inputs[best])
            whole = model[6](hidden)[range(len(best)), targets[best]]
            hidden[:, concept] = 0
            without = model[6](hidden)[range(len(best)), targets[best]]
        expected = float((whole - without).mean()) if best else np.nan
        np.testing.assert_allclose(effects.effect[place], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("concept, shape, ids", [
    (ChannelConcept(), (2, 5, 3, 3), np.arange(5)[:, None, None] + np.zeros((5, 3, 3))),
    (ChannelConcept(-1), (2, 4, 7), np.zeros((4, 7)) + np.arange(7)),
    (HeadConcept(3), (2, 4, 6), np.zeros((4, 6)) + np.array([0, 0, 1, 1, 2, 2])),
])
def test_elements_belong_to_the_concepts_that_masks_keep(concept, shape, ids):
    count = int(ids.max()) + 1
    assert torch.equal(Elements(concept, "layer", count).ids(shape)[0], torch.from_numpy(ids).long())


def test_concepts_that_share_elements_cannot_be_taken_away():
    class Overlapping(ChannelConcept):
        def mask(self, batch_id, concept_ids, layer_name=None):
            return super().mask(batch_id, sorted({c + i for c in concept_ids for i in (0, 1)}), layer_name)

    with pytest.raises(TypeError, match="share elements of 'layer'"):
        Elements(Overlapping(), "layer", 4).ids((1, 5))


def test_directions_are_taken_away_with_their_remainder(tmp_path):
    basis = torch.linalg.qr(torch.randn(10, 10))[0][:4]
    fv, composite = swept(tmp_path, concepts={"5": DirectionConcept(basis)})
    rows = rows_of(fv, "5", composite)
    assert rows.relevance.shape[1] == 5
    flipping = flip_concepts(rows, 5, 2, 0, False)
    inputs = torch.cat([batch.inputs for batch in rows.batches])
    targets = np.concatenate([batch.targets for batch in rows.batches])
    model = fv.attribution.model
    with torch.no_grad():
        nothing = model[6](torch.zeros(12, 10))[range(12), targets]
        whole = model(inputs)[range(12), targets]
    assert flipping.span == pytest.approx(float((whole - nothing).abs().mean()), rel=1e-3)


def test_weights_above_a_layer_are_those_of_modules_that_run_after_it(swept_network):
    fv, composite = swept_network
    assert modules_above(rows_of(fv, "1", composite)) == ["4", "6"]
    assert modules_above(rows_of(fv, "5", composite)) == ["6"]
    before = [parameter.clone() for parameter in fv.attribution.model.parameters()]
    rows = rows_of(fv, "1", composite)
    found = randomise_above(rows, 2, 0)
    assert found.modules == 2 and found.correlation.value < .9
    assert all(torch.equal(a, b) for a, b in zip(before, fv.attribution.model.parameters()))
    last = SampledRows(
        FeatureVisualization(fv.attribution, fv.dataset, {"6": ChannelConcept()}, path=fv.path), "6", composite, None,
        4, 4,
    )
    assert randomise_above(last, 2, 0).modules == 0 and np.isnan(randomise_above(last, 2, 0).correlation.value)


def test_correlations_are_those_of_scipy_over_what_is_not_zero():
    random = np.random.default_rng(0)
    first, second = (random.normal(size=(4, 9)).round(1) for _ in range(2))
    first[0, :3] = second[0, :3] = 0
    first[1], second[2, 1:], first[2] = 0, 0, 0
    found = row_correlation(first, second)
    assert found[0] == pytest.approx(spearmanr(first[0, 3:], second[0, 3:])[0])
    assert found[3] == pytest.approx(spearmanr(first[3], second[3])[0])
    assert np.isnan(found[1]) and np.isnan(found[2])


def test_small_noise_changes_little_and_integers_have_none(swept_network, tmp_path):
    fv, composite = swept_network
    rows = rows_of(fv, "1", composite)
    little, much = (shaken(rows, noise, 1, 0)[0] for noise in (1e-4, 3.))
    np.testing.assert_allclose(little, rows.relevance, atol=1e-3)
    assert np.nanmean(row_correlation(rows.relevance, much)) < np.nanmean(row_correlation(rows.relevance, little))
    words = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 3)).eval()
    data = TensorDataset(torch.randint(7, (12, 3)), torch.arange(12) % 3)
    fv, composite = swept(tmp_path, words, {"1": ChannelConcept()}, data, LanguageModel())
    assert shaken(rows_of(fv, "1", composite), .05, 2, 0) == []


def test_clearness_restated(swept_network):
    fv, composite = swept_network
    store = fv.open_store(composite)
    found = clearness(store, "5")
    activation = np.asarray(store.values("5", "activation", normalised=False), np.float64)
    relevance, targets = np.asarray(store.values("5", normalised=False), np.float64), store.targets
    for concept in range(10):
        own = activation[:, concept]
        if own.max() == 0:
            assert found.dead[concept] and found.nearest[concept] == -1
            continue
        evenness = own.mean() ** 2 / (own ** 2).mean()
        assert found.sparsity[concept] == pytest.approx((1 - evenness) / (1 - 1 / 60))
        assert found.silent[concept] == pytest.approx((own == 0).mean())
        assert found.peak[concept] == pytest.approx(own.max() / own.mean())
        alive = [j for j in range(10) if j != concept and activation[:, j].std()]
        others = {j: pearsonr(own, activation[:, j])[0] for j in alive}
        nearest = max(others, key=lambda j: abs(others[j]))
        assert found.nearest[concept] == nearest
        assert found.similarity[concept] == pytest.approx(others[nearest], abs=1e-4)
        means = np.array([relevance[targets == c].mean(0) for c in range(3)])
        portions = np.abs(means / np.abs(means).sum(1, keepdims=True))[:, concept]
        if portions.sum() > 0:
            portions = portions / portions.sum()
            assert found.purity[concept] == pytest.approx(portions.max())
            assert found.serves[concept] == portions.argmax()
            entropy = -sum(p * np.log(p) for p in portions if p > 0) / np.log(3)
            assert found.entropy[concept] == pytest.approx(entropy, abs=1e-6)
    assert (found.duplicate == (np.abs(found.similarity) >= .95)).all()


def test_references_of_halves_agree_where_a_concept_stands_for_one_thing(tmp_path):
    """Unit 0 fires with unit 1 alone, unit 2 with any of the others: halves agree on 0, and less so on 2."""
    random = np.random.default_rng(0)
    values = np.zeros((200, 12), np.float32)
    strong = random.random((200, 2)) + .5
    values[:40, 0], values[:40, 1] = strong[:40, 0], 1
    values[40:80, 2] = strong[40:80, 0]
    values[np.arange(40, 80), random.integers(3, 12, 40)] = 1
    values[80:, 3:] = random.random((120, 9))
    model = nn.Sequential(nn.Identity(), nn.Linear(12, 2)).eval()
    nn.init.ones_(model[1].weight)
    data = TensorDataset(torch.from_numpy(values), torch.zeros(200, dtype=torch.long))
    fv, composite = swept(tmp_path, model, {"0": ChannelConcept()}, data, LanguageModel())
    agreement, control = halves_agree(fv.open_store(composite), "0", np.array([0, 2]), 3, 40, 0)
    assert agreement[0] > .99 > agreement[1] and agreement[0] > control[0]


def test_intervals_hold_the_mean_as_often_as_they_say():
    random = np.random.default_rng(0)
    hits = [found.lower <= 0 <= found.upper for found in (mean_of_rows(random.normal(size=40), 0) for _ in range(200))]
    assert .88 <= np.mean(hits) <= 1
    assert np.isnan(mean_of_rows(np.array([np.nan]), 0).value)
    assert mean_of_rows(np.array([1., np.nan, 3.]), 0).value == 2


def test_another_composite_than_that_of_the_sweep_is_refused(swept_network):
    fv, _ = swept_network
    with pytest.raises(StoreError, match="composite"):
        fv.open_store(EpsilonPlus(epsilon=.1))
