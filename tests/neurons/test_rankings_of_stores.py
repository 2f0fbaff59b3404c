"""Rankings of the layers of a store, kept beside its matrices."""
import numpy as np
import pytest
import torch
from small_sweeps import CLASSES, SAMPLES, single_targets, sweep

from crp.neurons import Ranking, match, probe_report, rank
from crp.store import ReferenceStore, StoreError, verify


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("ranked") / "store")


@pytest.fixture
def own(tmp_path):
    return sweep(tmp_path / "store")


@pytest.mark.parametrize("by, quantity", [
    ("relevance", "relevance"), ("anova", "activation"), ("variance", "activation"),
])
def test_values_of_a_store_are_those_of_its_matrices(store, by, quantity):
    layers = ["conv", "fc"]
    arrays = {layer: store.values(layer, quantity)[:] for layer in layers}
    expected = rank(arrays, single_targets(), by)
    for ranking in (rank(store, by=by), rank(store, single_targets(), by, layers=layers)):
        assert ranking.units == expected.units and ranking.layers == layers
        np.testing.assert_allclose(ranking.scores, expected.scores, rtol=1e-6)
    assert rank(store, by=by, layers="fc").units == rank(arrays["fc"], single_targets(), by).units
    other = {"relevance": "activation", "activation": "relevance"}[quantity]
    assert rank(store, by=by, quantity=other).source.quantity == other


def test_labels_may_be_of_the_dataset(tmp_path):
    """Where only some of its samples were swept."""
    from small_sweeps import visualization
    from zennit.composites import EpsilonPlusFlat
    store = visualization(tmp_path).run(EpsilonPlusFlat(), 3, 11)
    labels = np.arange(SAMPLES) % 2
    found = rank(store, labels, "anova", layers="fc")
    np.testing.assert_allclose(
        found.scores, rank(store.values("fc", "activation")[:], labels[3:11], "anova").scores, rtol=1e-6
    )
    with pytest.raises(ValueError, match="8 rows, of a dataset of 13 samples"):
        rank(store, labels[:5], "anova")


@pytest.mark.parametrize("by", ["relevance", "anova", "probe", "variance", "gaussian"])
def test_rankings_are_saved_and_loaded(own, tmp_path, by):
    labels = np.arange(SAMPLES) % 2
    ranking = rank(own, labels, by)
    ranking.save(tmp_path / "ranking.npz")
    with pytest.raises(ValueError, match="give it a name"):
        ranking.save(own)
    ranking.save(own, "even")
    rank(own, (np.arange(SAMPLES) % 5 == 0).astype(int), by).save(own, "fives")
    rank(own, by=by).save(own)
    again = ReferenceStore(own.path)
    assert Ranking.load(again, by).classes in ([], [0, 1, 2])
    for loaded in (Ranking.load(tmp_path / "ranking.npz"), Ranking.load(own, by, name="even"),
                   Ranking.load(again, by, name="even")):
        assert loaded.units == ranking.units and loaded.classes == ranking.classes
        assert loaded.held_out == ranking.held_out and loaded.options == ranking.options
        for name in ("scores", "class_scores", "class_order", "constant"):
            assert np.array_equal(getattr(loaded, name), getattr(ranking, name))
        assert loaded.details.keys() == ranking.details.keys()
        assert (loaded.interval is None) == (ranking.interval is None)
    assert verify(own.path) == []


def test_rankings_in_a_store_are_bound_to_its_sweep(own, tmp_path):
    rank(own, by="anova", layers="fc").save(own)
    with pytest.raises(StoreError, match=r"no such ranking: make it with rank\(store, by='anova', layers=\['conv'\]"):
        Ranking.load(own, "anova", layers="conv")
    other = sweep(own.path, batch_size=3, overwrite=True)
    with pytest.raises(StoreError, match="no such ranking"):
        Ranking.load(other, "anova", layers="fc")
    with pytest.raises(ValueError, match="save it elsewhere"):
        rank(np.eye(4), by="variance").save(other)
    with pytest.raises(TypeError, match="by method"):
        Ranking.load(other)
    with pytest.raises(TypeError, match="is a file"):
        Ranking.load(tmp_path / "ranking.npz", "anova")


def test_files_that_hold_something_else_are_refused(store, tmp_path):
    ranking = rank(store, by="anova")
    settings, arrays = ranking._contents()
    from crp.store.archive import write_archive
    for change in (
        {"order": ranking.order[:-1]}, {"order": np.zeros_like(ranking.order)}, {"scores": ranking.scores[:3]},
        {"class_scores": ranking.class_scores[:1]}, {"constant": np.array([99])}, {"interval": ranking.interval[:2]},
    ):
        write_archive(tmp_path / "wrong.npz", "crp-ranking 1", settings, {**arrays, **change})
        with pytest.raises(ValueError, match="wrong.npz holds no"):
            Ranking.load(tmp_path / "wrong.npz")
    for change in ({"sizes": [3]}, {"method": 5}, {"classes": [[]]}, {"rows": -1}, {"more": 1}):
        write_archive(tmp_path / "wrong.npz", "crp-ranking 1", {**settings, **change}, arrays)
        with pytest.raises(ValueError, match="wrong.npz holds no"):
            Ranking.load(tmp_path / "wrong.npz")


def test_rows_of_two_stores_are_compared_by_their_samples(store, tmp_path):
    from small_sweeps import visualization
    from zennit.composites import EpsilonPlusFlat
    other = visualization(tmp_path).run(EpsilonPlusFlat(), 0, SAMPLES)
    assert rank([store, other], by="correlation", layers="fc").scores == pytest.approx(1, abs=1e-5)
    found = match(store, other, layers=("fc", "conv"))
    assert len(found.partner_of_a) == 4 and len(found.partner_of_b) == 5
    with pytest.raises(ValueError, match="rows, b has"):
        match(store, {"fc": np.zeros((5, 4))}, layers="fc")
    shifted = visualization(tmp_path / "b").run(EpsilonPlusFlat(), 0, SAMPLES - 1)
    later = visualization(tmp_path / "c").run(EpsilonPlusFlat(), 1, SAMPLES)
    with pytest.raises(ValueError, match="row 0 is sample 0 in a, but 1 in b"):
        match(shifted, later, layers="fc")


def test_a_ranking_shows_itself(store):
    ranking = rank(store, by="anova")
    text = repr(ranking)
    assert "9 units of 'conv', 'fc' by anova" in text and len(ranking) == 9
    layer, unit = ranking.top(1)[0]
    assert ranking.by_layer(ranking.order[:1]) == {layer: [unit]}
    frame = ranking.to_frame()
    assert list(frame.columns) == ["layer", "unit", "score", "lower", "upper", 0, 1, 2] and len(frame) == 9
    assert np.array_equal(frame["score"], ranking.scores)
    assert frame[1].tolist() == [
        ranking.class_scores[1][list(ranking.class_order[1]).index(number)] for number in ranking.order
    ]
    assert ranking.plot(5).axes[0].get_yticklabels()[0].get_text() == f"{layer} {unit}"
    assert "for 2" in ranking.plot(target=2).axes[0].get_title()
    with pytest.raises(ValueError, match="no class 7; there are"):
        ranking.top(3, target=7)


def test_numbers_of_classes_of_several_targets(tmp_path):
    from small_sweeps import MULTI_HOT, images
    from torch.utils.data import TensorDataset
    store = sweep(tmp_path, data=TensorDataset(images(len(MULTI_HOT)), MULTI_HOT))
    ranking = rank(store, by="relevance")
    assert ranking.classes == list(range(CLASSES)) and ranking.rows == int(MULTI_HOT.sum())
    with pytest.raises(ValueError, match="needs labels"):
        rank(store, by="anova")
    assert rank(store, by="anova", quantity="relevance").classes == list(range(CLASSES))
    assert torch.is_tensor(MULTI_HOT)


def test_probe_reports_have_controls():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 400)
    values = random.normal(size=(400, 20))
    values[:, :4] += 1.5 * np.eye(3)[labels][:, [0, 1, 2, 0]]
    values[:, 10] = values[:, 0] + .05 * random.normal(size=400)
    report = probe_report(values, labels, shares=(.05, .2), draws=3)
    assert report.counts == [1, 4] and report.everything.score > .7
    assert report.top[1].score > report.random[1].score > report.bottom[1].score - .05
    assert abs(report.control.score - report.control.chance) < .15 and report.selectivity > .3
    assert report.fewest <= 6 and report.clusters[0] == report.clusters[10] and abs(report.redundancy - .05) < 1e-9
    assert len(set(report.clusters)) == 19 and "selectivity" in str(report)
    assert len(report.to_frame()) == 2 + 3 * 2 and report.plot().axes
    ranking = rank(values, labels, "anova")
    assert probe_report(values, labels, ranking, shares=(.2,), draws=1).order.tolist() == ranking.order.tolist()
    named = rank({"a": values[:, :10], "b": values[:, 10:]}, labels, "anova")
    for other in (rank(values[:, :5], by="variance"), rank([values, values], by="svcca")):
        with pytest.raises(ValueError, match="the ranking is of"):
            probe_report(values, labels, other)
    with pytest.raises(ValueError, match="the ranking is of"):
        probe_report({"b": values[:, :10], "a": values[:, 10:]}, labels, named)
    with pytest.raises(ValueError, match="needs labels"):
        probe_report(values)


def test_scores_that_depend_on_the_scale_of_layers_are_told(store):
    with pytest.warns(UserWarning, match="depend on the size and scale of a layer"):
        rank(store, by="variance")
    groups = np.arange(SAMPLES) // 4
    grouped, alone = (rank(store, by="anova", layers="fc", groups=of) for of in (groups, None))
    np.testing.assert_array_equal(grouped.scores, alone.scores)
    assert not np.array_equal(grouped.interval, alone.interval)


def test_control_tasks_that_can_be_learned_by_heart():
    """A label per word: a probe on units that know words learns any labels, and selectivity tells."""
    random = np.random.default_rng(0)
    words = random.integers(0, 30, 600)
    values, labels = np.eye(30)[words] + .05 * random.normal(size=(600, 30)), words % 2
    by_word = probe_report(values, labels, types=words, shares=(.5,), draws=1)
    by_row = probe_report(values, labels, shares=(.5,), draws=1)
    assert by_word.everything.score > .95 and by_word.selectivity < .1 < .4 < by_row.selectivity


def test_units_are_matched_as_by_all_correlations():
    random = np.random.default_rng(0)
    a = random.normal(size=(300, 7))
    b = np.concatenate([-a[:, [3, 1]], random.normal(size=(300, 3))], 1) + .1 * random.normal(size=(300, 5))
    a[:, 6] = 2.
    found = match(a, b)
    expected = np.nan_to_num(np.corrcoef(a.T, b.T)[:7, 7:])
    assert np.array_equal(found.partner_of_a[:6], np.abs(expected).argmax(1)[:6])
    assert np.array_equal(found.partner_of_b, np.abs(expected).argmax(0))
    np.testing.assert_allclose(found.correlation_of_b, expected[found.partner_of_b, range(5)], atol=1e-6)
    assert found.mutual.tolist() in ([[3, 0], [1, 1]], [[1, 1], [3, 0]])
    assert found.alone_in_a.tolist() == [0, 2, 4, 5] and found.constant_in_a.tolist() == [6]
    assert found.alone_in_b.tolist() == [2, 3, 4]
    assert found.to_frame()["mutual"].sum() == 2 and found.plot().axes and "2 mutual" in repr(found)
