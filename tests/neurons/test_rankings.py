"""Rankings of units against slow restatements of their formulas."""
import itertools

import numpy as np
import pytest
import torch
from planted_units import planted
from scipy import stats
from sklearn.feature_selection import mutual_info_classif, mutual_info_regression
from sklearn.linear_model import ElasticNet, LogisticRegression
from sklearn.metrics import average_precision_score

from crp.neurons import rank
from crp.neurons import values as values_module
from crp.neurons.gaussian import select_forward
from crp.neurons.labels import read_labels
from crp.neurons.methods import METHODS
from crp.neurons.probes import fit_probe, share_order
from crp.neurons.values import unit_table

OF_ONE = [name for name, method in METHODS.items() if not method.several]
QUICK = [name for name in OF_ONE if name != "mutual_information"]


def scores_by_unit(ranking):
    scores = np.empty(len(ranking.order))
    scores[ranking.order] = ranking.scores
    return scores


def class_scores_by_unit(ranking):
    scores = np.empty(ranking.class_scores.shape)
    np.put_along_axis(scores, ranking.class_order, ranking.class_scores, 1)
    return scores


def one_against_rest(values, labels, statistic):
    return [[statistic(column[labels == k], column[labels != k]) for column in values.T] for k in np.unique(labels)]


@pytest.fixture(params=[2, 3, 6])
def made(request):
    return planted(120, 7, 3, request.param, 1., request.param)


@pytest.fixture(params=["at once", "in small blocks"])
def blocks(request, monkeypatch):
    if request.param == "in small blocks":
        monkeypatch.setattr(values_module, "_BLOCK_BYTES", 2 ** 10)
        monkeypatch.setattr("crp.neurons.moments._ACCUMULATED_BYTES", 2 ** 12)
        monkeypatch.setattr("crp.neurons.between._ACCUMULATED_BYTES", 2 ** 6)
        monkeypatch.setattr("crp.neurons.between._ROWS", 17)


def test_anova(made, blocks):
    values, labels = made
    ranking = rank(values, labels, "anova")
    expected = [stats.f_oneway(*(column[labels == k] for k in np.unique(labels))).statistic for column in values.T]
    np.testing.assert_allclose(scores_by_unit(ranking), expected, rtol=1e-9)
    of_each = one_against_rest(values, labels, lambda own, rest: stats.f_oneway(own, rest).statistic)
    np.testing.assert_allclose(class_scores_by_unit(ranking), of_each, rtol=1e-9)
    assert ranking.classes == np.unique(labels).tolist()


def test_anova_of_numbers(made, blocks):
    values, _ = made
    numbers = values[:, 0] + np.random.default_rng(3).normal(size=len(values))
    found = [stats.linregress(column, numbers).rvalue ** 2 for column in values.T]
    expected = [r / (1 - r) * (len(values) - 2) for r in found]
    np.testing.assert_allclose(scores_by_unit(rank(values, numbers, "anova")), expected, rtol=1e-9)


def test_probeless(made, blocks):
    values, labels = made
    means = [values[labels == k].mean(0) for k in np.unique(labels)]
    expected = sum(np.abs(a - b) for a, b in itertools.combinations(means, 2))
    ranking = rank(values, labels, "probeless")
    np.testing.assert_allclose(scores_by_unit(ranking), expected, rtol=1e-9)
    of_each = [sum(np.abs(a - b) for b in means) for a in means]
    np.testing.assert_allclose(class_scores_by_unit(ranking), of_each, rtol=1e-9)


def test_variance_and_mean_distance(made, blocks):
    values, _ = made
    values = values + 1e6  # far from zero, where sums of squares lose digits
    np.testing.assert_allclose(scores_by_unit(rank(values, by="variance")), values.var(0), rtol=1e-7)
    expected = np.abs(values - values.mean(0)).mean(0)
    np.testing.assert_allclose(scores_by_unit(rank(values, by="mean_distance")), expected, rtol=1e-7)


def test_relevance_and_activation(made, blocks):
    values, labels = made
    shares = np.array([np.abs(row) / np.abs(row).sum() for row in values])
    for by, expected in (("relevance", shares), ("activation", np.abs(values))):
        ranking = rank(values, labels, by)
        np.testing.assert_allclose(scores_by_unit(ranking), expected.mean(0), rtol=1e-9)
        of_each = [expected[labels == k].mean(0) for k in np.unique(labels)]
        np.testing.assert_allclose(class_scores_by_unit(ranking), of_each, rtol=1e-9)
        of_some = rank(values, labels, by, targets=[0, 1])
        np.testing.assert_allclose(scores_by_unit(of_some), expected[labels < 2].mean(0), rtol=1e-9)


def test_relevance_is_a_share_of_each_layer():
    values, _ = planted()
    ranking = rank({"a": values[:, :10], "b": 100 * values[:, 10:]})
    both = {layer: rank({layer: part}) for layer, part in (("a", values[:, :10]), ("b", 100 * values[:, 10:]))}
    scores = np.concatenate([scores_by_unit(both["a"]), scores_by_unit(both["b"])])
    np.testing.assert_allclose(scores_by_unit(ranking), scores)


@pytest.mark.parametrize("decimals", [8, 0])
def test_average_precision_also_with_ties(made, blocks, decimals):
    values, labels = made
    values = values.round(decimals)
    expected = np.array([
        [average_precision_score(labels == k, column) for column in values.T] for k in np.unique(labels)
    ])
    ranking = rank(values, labels, "average_precision")
    np.testing.assert_allclose(class_scores_by_unit(ranking), expected, rtol=1e-9)
    share = np.bincount(labels)[:, None] / len(labels)
    np.testing.assert_allclose(scores_by_unit(ranking), ((expected - share) / (1 - share)).max(0), rtol=1e-9)


def test_mutual_information(blocks):
    values, labels = planted(150, 4, 2)
    ranking = rank(values, labels, "mutual_information", random_state=None)
    np.testing.assert_allclose(scores_by_unit(ranking), mutual_info_classif(values, labels), atol=1e-6)
    of_each = [mutual_info_classif(values, labels == k) for k in range(3)]
    np.testing.assert_allclose(class_scores_by_unit(ranking), of_each, atol=1e-6)
    numbers = values[:, 0] ** 2 + .1
    found = scores_by_unit(rank(values, numbers, "mutual_information"))
    np.testing.assert_allclose(found, mutual_info_regression(values, numbers), atol=1e-6)


@pytest.mark.parametrize("l1, l2", [(1e-2, 1e-2), (5e-2, 0), (1e-3, 1e-1)])
def test_probe_minimises_the_elastic_net_objective(l1, l2, blocks):
    values, labels = planted(200, 12, 4, 3, 1.)
    values[:, 5] *= 100
    scaled = (values - values.mean(0)) / values.std(0)
    ratio = l1 / (l1 + l2)
    peer = LogisticRegression(
        solver="saga", l1_ratio=ratio, C=1 / (len(values) * (l1 + l2)), tol=1e-9, max_iter=20000
    ).fit(scaled, labels)
    table = unit_table(values)
    probe = fit_probe(table, read_labels(labels, table), np.arange(len(values)), l1, l2, 1e-9)
    np.testing.assert_allclose(probe.weights, peer.coef_, atol=2e-3)
    np.testing.assert_allclose(
        probe.outputs(table, np.arange(200)).argmax(1), peer.predict(scaled)
    )


def test_probe_of_numbers_minimises_the_elastic_net_objective():
    values, _ = planted(200, 12)
    numbers = 10 + values[:, :3] @ [3, -2, .5] + np.random.default_rng(0).normal(size=200)
    unit = numbers.std()
    scaled = (values - values.mean(0)) / values.std(0)
    peer = ElasticNet(alpha=.05 + .02, l1_ratio=.05 / .07, tol=1e-10).fit(scaled, (numbers - numbers.mean()) / unit)
    table = unit_table(values)
    probe = fit_probe(table, read_labels(numbers, table), np.arange(200), .05, .02, 1e-9)
    np.testing.assert_allclose(probe.weights[0], peer.coef_ * unit, atol=1e-3)
    np.testing.assert_allclose(
        probe.outputs(table, np.arange(200))[:, 0], peer.predict(scaled) * unit + numbers.mean(), atol=1e-3
    )


def test_units_come_in_by_growing_share_of_the_weight_mass():
    weights = np.random.default_rng(0).normal(size=(3, 9))
    weights[:, 4] = 0
    scores, _ = share_order(weights)
    come_in = np.full(9, np.inf)
    for share in np.linspace(0, 1, 10001)[1:]:
        for row in np.abs(weights) / np.abs(weights).sum(1, keepdims=True):
            order = np.argsort(-row)
            smallest = order[:np.searchsorted(row[order].cumsum(), share - 1e-12) + 1]
            come_in[smallest] = np.minimum(come_in[smallest], share)
    come_in[4] = 1
    np.testing.assert_allclose(1 - scores, come_in, atol=2e-4)


def test_gaussian_probe_adds_the_unit_that_tells_most_beside_the_others():
    values, labels = planted(300, 6, 4, 3, 1.)
    held, held_labels = planted(200, 6, 4, 3, 1., 1)
    units, gains, log_posterior = select_forward(values, labels, held, held_labels, 3)

    mean, scale = values.mean(0), values.std(0)
    values, held = (values - mean) / scale, (held - mean) / scale
    within = sum(((values[labels == k] - values[labels == k].mean(0)) ** 2).sum(0) for k in range(3)) / len(values)

    def log_joint(chosen):
        found = []
        for k in range(3):
            own = values[labels == k][:, chosen]
            scatter = np.cov(own.T, ddof=0).reshape(len(chosen), -1) * len(own)
            covariance = (scatter + np.diag(within[chosen])) / (len(own) + 1)
            density = stats.multivariate_normal(own.mean(0), covariance).logpdf(held[:, chosen])
            found.append(density + np.log(len(own) / len(values)))
        return np.stack(found, 1)

    def bits(joint):
        posterior = joint - np.log(np.exp(joint).sum(1, keepdims=True))
        return posterior[np.arange(len(held)), held_labels].mean() / np.log(2)

    expected, before = [], np.log2(np.bincount(labels) / len(labels))[held_labels].mean()
    for gain in gains:
        of_each = {unit: bits(log_joint([*expected, unit])) for unit in range(6) if unit not in expected}
        expected.append(max(of_each, key=of_each.get))
        np.testing.assert_allclose(gain, of_each[expected[-1]] - before, rtol=1e-6)
        before = of_each[expected[-1]]
    assert units == expected
    joint = log_joint(expected)
    np.testing.assert_allclose(log_posterior, joint - np.log(np.exp(joint).sum(1, keepdims=True)), atol=1e-6)


def test_correlation_with_the_best_unit_of_other_models(blocks):
    random = np.random.default_rng(0)
    first = random.normal(size=(100, 6))
    second = np.concatenate([-first[:, :2], random.normal(size=(100, 3))], 1) + .1 * random.normal(size=(100, 5))
    third = first[:, ::-1] + random.normal(size=(100, 6))
    expected = [np.corrcoef(first.T, other.T)[:6, 6:] for other in (second, third)]
    ranking = rank([first, second, third], by="correlation")
    best = np.stack([np.abs(r).max(1) for r in expected])
    np.testing.assert_allclose(scores_by_unit(ranking), best.max(0), atol=1e-6)
    least = scores_by_unit(rank([first, second, third], by="correlation", reduce="min"))
    np.testing.assert_allclose(least, best.min(0), atol=1e-6)
    partner = np.stack([np.abs(r).argmax(1) for r in expected])
    assert np.array_equal(ranking.details["partner"], partner)
    signed = np.stack([np.take_along_axis(r, p[:, None], 1)[:, 0] for r, p in zip(expected, partner)])
    np.testing.assert_allclose(ranking.details["correlation"], signed, atol=1e-6)
    assert (signed[0, :2] < -.9).all()
    assert (ranking.interval[:, 0] <= ranking.scores).all() and (ranking.scores <= ranking.interval[:, 1]).all()


def test_regression_on_the_units_of_another_model(blocks):
    random = np.random.default_rng(0)
    other = random.normal(size=(300, 5))
    other = np.concatenate([other, other[:, :2] @ [[1.], [1.]]], 1)  # of which one depends on others
    values = np.stack([other[:, 0] - other[:, 3], random.normal(size=300), 5 + 0 * other[:, 0]], 1)
    values[:, 0] += .5 * random.normal(size=300)
    ranking = rank([values, other], by="regression", test_size=.4)
    assert ranking.top(1) == [0] and ranking.constant.tolist() == [2]
    scores = scores_by_unit(ranking)
    assert .7 < scores[0] < .95 and scores[1] < .05 and scores[2] == 0
    from crp.neurons.labels import Labels
    from crp.neurons.splits import split
    fitted, held = split(Labels(np.arange(300), 0, [], np.zeros(300)), np.arange(300), .4, 0)
    design = np.concatenate([other[fitted], np.ones((len(fitted), 1))], 1)
    weights = np.linalg.lstsq(design, values[fitted], rcond=None)[0]
    wrong = values[held] - np.concatenate([other[held], np.ones((len(held), 1))], 1) @ weights
    np.testing.assert_allclose(scores[:2], 1 - (wrong ** 2).mean(0)[:2] / values[held].var(0)[:2], rtol=1e-6)


def test_regression_reads_what_is_in_small_differences():
    random = np.random.default_rng(0)
    large, small = random.normal(size=(2, 400))
    other = np.stack([large, large + .02 * small], 1)
    assert rank([small[:, None], other], by="regression").scores[0] > .99


def test_svcca_finds_what_two_models_share(blocks):
    random = np.random.default_rng(0)
    shared = random.normal(size=(500, 2))
    first = shared @ random.normal(size=(2, 6)) + .3 * random.normal(size=(500, 6))
    second = shared @ random.normal(size=(2, 4)) + .3 * random.normal(size=(500, 4))
    ranking = rank([first, second], by="svcca", variance=.9)

    def components(values):
        left, size, _ = np.linalg.svd(values - values.mean(0), full_matrices=False)
        return left[:, :np.searchsorted((size ** 2).cumsum() / (size ** 2).sum(), .9) + 1]

    expected = np.linalg.svd(components(first).T @ components(second))[1]
    np.testing.assert_allclose(ranking.scores, expected, atol=1e-8)
    directions = (first - first.mean(0)) @ ranking.details["directions"].T
    np.testing.assert_allclose(directions.T @ directions / 500, np.eye(len(expected)), atol=1e-8)


@pytest.mark.parametrize("by", OF_ONE)
def test_constant_units_are_named_and_score_nothing(by):
    values, labels = planted(120, 6)
    values[:, 2], values[:, 4] = .1, 0
    ranking = rank(values, labels, by)
    assert np.isfinite(ranking.scores).all() and np.isfinite(ranking.class_scores).all()
    scores = scores_by_unit(ranking)
    assert scores[4] == 0
    if by == "relevance":  # whose values are shares: that of a constant unit varies
        assert ranking.constant.tolist() == [4] and scores[2] > 0
    else:
        assert ranking.constant.tolist() == [2, 4]
        np.testing.assert_allclose(scores[2], .1 if by == "activation" else 0)
    assert ranking.interval is None or np.isfinite(ranking.interval).all()


@pytest.mark.parametrize("by", [name for name in QUICK if name not in ("random", "gaussian", "probe")])
def test_ties_go_to_the_lower_unit(by):
    values, labels = planted(100, 8)
    values[:] = values[:, :1]
    assert rank(values, labels, by).top(8) == list(range(8))


@pytest.mark.parametrize("by", QUICK)
@pytest.mark.parametrize("none", [None, float("nan")])
def test_rows_without_label_are_left_out_and_counted(by, none):
    values, labels = planted(200, 8)
    names = [f"class {label}" for label in labels]
    with_holes = [none if i % 5 == 0 else name for i, name in enumerate(names)]
    kept = np.arange(200) % 5 != 0
    ranking, expected = rank(values, with_holes, by), rank(values[kept], np.array(names)[kept], by)
    assert (ranking.rows, ranking.left_out) == (160, 40)
    np.testing.assert_allclose(ranking.scores, expected.scores, rtol=1e-6)
    assert ranking.units == expected.units and ranking.classes == expected.classes


@pytest.mark.parametrize("as_labels", [
    list, np.array, torch.tensor, lambda labels: np.array(labels, object), lambda labels: [str(x) for x in labels],
    lambda labels: [torch.tensor(x) for x in labels], lambda labels: np.array([str(x) for x in labels]),
])
def test_labels_of_any_form(as_labels):
    values, labels = planted()
    expected = rank(values, labels, "anova")
    ranking = rank(values, as_labels(labels.tolist()), "anova")
    np.testing.assert_array_equal(ranking.scores, expected.scores)
    assert ranking.classes in ([0, 1, 2], ["0", "1", "2"])


def test_a_boolean_property_is_two_classes():
    values, labels = planted()
    ranking = rank(values, labels == 1, "average_precision")
    assert ranking.classes == [False, True] and sorted(ranking.top(2, True)) == [1, 4]


@pytest.mark.parametrize("as_values", [
    torch.tensor, lambda values: values.tolist(), lambda values: torch.tensor(values).requires_grad_(),
    lambda values: values.astype(np.float32), lambda values: torch.tensor(values).bfloat16(),
    lambda values: values.astype(np.float16),
])
def test_values_of_any_form(as_values):
    values, labels = planted(strength=3.)
    assert sorted(rank(as_values(values), labels, "anova").top(5)) == [0, 1, 2, 3, 4]


def test_values_are_not_changed():
    values, labels = planted()
    copies = values.copy(), labels.copy()
    for by in QUICK:
        rank(values, labels, by)
    assert np.array_equal(values, copies[0]) and np.array_equal(labels, copies[1])


@pytest.mark.parametrize("by", QUICK)
def test_the_same_random_state_gives_the_same(by):
    values, labels = planted()
    one, other = (rank(values, labels, by, random_state=3) for _ in range(2))
    assert one.units == other.units and np.array_equal(one.scores, other.scores)
    assert one.held_out == other.held_out
    assert (one.interval is None) == (by in ("probe", "gaussian", "random"))
    assert one.interval is None or np.array_equal(one.interval, other.interval)


def test_a_function_ranks():
    values, labels = planted()
    ranking = rank(values, labels, lambda values, labels: -np.abs(np.arange(30) - 7))
    assert ranking.top(3) == [7, 6, 8]
    seen = []
    rank(values, ["ab"[int(label > 0)] for label in labels], lambda values, labels: seen.append(labels) or np.zeros(30))
    assert set(seen[0]) == {"a", "b"}


@pytest.mark.parametrize("by, statistic", [
    ("variance", lambda values, labels: values.var(0)),
    ("anova", None), ("mean_distance", lambda values, labels: np.abs(values - values.mean(0)).mean(0)),
    ("average_precision", None),
])
def test_intervals_hold_the_score_of_the_population(by, statistic):
    """In 95 of 100 samples, about."""
    large_values, large_labels = planted(50_000, 3, 3, 2, 1.)
    if by == "anova":  # which grows with the number of rows: compare the share of the variance explained
        def truth(scores, rows):
            return scores / (scores + rows - 2)
    else:
        def truth(scores, rows):
            return scores
    expected = truth(scores_by_unit(rank(large_values, large_labels, by, n_bootstrap=0)), 50_000)
    inside = []
    for seed in range(60):
        ranking = rank(*planted(150, 3, 3, 2, 1., 100 + seed), by, n_bootstrap=200)
        bounds = np.empty((3, 2))
        bounds[ranking.order] = truth(ranking.interval, 150)
        inside.append((bounds[:, 0] <= expected) & (expected <= bounds[:, 1]))
    assert .87 <= np.mean(inside) <= .99


def test_rows_of_one_sample_are_drawn_together():
    """The interval of 100 samples is not that of 1,000 rows that repeat them."""
    from crp.neurons.labels import Labels
    from crp.neurons.moments import resamplings
    labels = Labels(np.arange(12), 0, [], np.zeros(12))
    drawn = resamplings(labels, np.arange(12) // 4, 50, 0)
    assert (drawn.reshape(51, 3, 4) == drawn.reshape(51, 3, 4)[:, :, :1]).all()
    assert (drawn.sum(1) == 12).all() and (drawn[0] == 1).all() and len(np.unique(drawn[1:], axis=0)) > 5


def test_held_out_rows_judge_what_is_fitted():
    values, labels = planted(400, 10)
    for by in ("probe", "gaussian"):
        good = rank(values, labels, by).held_out
        assert good.lower < good.score < good.upper and good.score > good.chance + .3
        assert good.metric == "accuracy" and "chance" in str(good)
        nothing = rank(np.random.default_rng(1).normal(size=values.shape), labels, by).held_out
        assert abs(nothing.score - nothing.chance) < .12
    numbers = rank(values, values[:, 0] + .1 * values[:, 9], "probe").held_out
    assert numbers.metric == "R2" and numbers.score > .95 and abs(numbers.chance) < .05


def test_groups_are_not_torn_apart():
    """Rows of a group are copies: a probe that had seen some would know the others by heart."""
    random = np.random.default_rng(0)
    groups = np.arange(100).repeat(5)
    values, labels = random.normal(size=(100, 120))[groups], random.integers(0, 2, 100)[groups]
    torn = rank(values, labels, "probe", l1=0, l2=1e-6).held_out
    whole = rank(values, labels, "probe", l1=0, l2=1e-6, groups=groups).held_out
    assert torn.score > .85 and whole.score < .65


@pytest.mark.parametrize("values, labels, options, message", [
    (np.zeros((3, 2, 2)), None, {}, r"\[rows, units\], not of the shape \(3, 2, 2\)"),
    (np.zeros((0, 2)), None, {}, "empty"),
    ({"a": np.zeros((3, 2)), "b": np.zeros((4, 2))}, None, {}, "differ in their number of rows"),
    ({"conv": np.zeros((3, 2))}, None, {"layers": "conb"}, "did you mean 'conv'"),
    (np.zeros((3, 2)), [0, 1], {"by": "anova"}, "2 labels, but 3 rows"),
    (np.zeros((3, 2)), [1, 1, 1], {"by": "anova"}, "same class, 1"),
    (np.zeros((3, 2)), [None, None, None], {"by": "anova"}, "no row has a label"),
    (np.zeros((3, 2)), None, {"by": "anova"}, "needs labels"),
    (np.zeros((3, 2)), [[0], [1], [1]], {"by": "anova"}, "one for each row"),
    (np.zeros((3, 2)), [.5, 1.5, 2], {"by": "probeless"}, "compares classes"),
    (np.zeros((3, 2)), [0, 1, 1], {"by": "annova"}, "did you mean 'anova'"),
    (np.zeros((3, 2)), [0, 1, 1], {"by": "correlation"}, "a list of two or more"),
    ([np.zeros((3, 2)), np.zeros((4, 2))], None, {"by": "correlation"}, r"values\[0\] has 3 rows, values\[1\] has 4"),
    ([np.eye(3)] * 3, None, {"by": "svcca"}, "compares two models, not 3"),
    ([np.eye(3)] * 2, None, {"by": "correlation", "reduce": "mean"}, "'max' or 'min'"),
    (np.eye(3), [0, 1, 1], {"targets": 5}, r"no class 5 in targets; there are \[0, 1\]"),
    (np.eye(3), [0, 1, 1], {"by": "probe"}, "class 0 has no row"),
    (np.eye(3), [0, 1, 1], {"by": "probe", "l1": -1}, "l1 is a number from 0"),
    (np.eye(3), [0, 1, 1], {"by": "mutual_information"}, "less than the smallest class"),
    (np.eye(3), [0, 1, 1], {"by": "variance", "n_bootstrap": -1}, "not negative"),
])
def test_bad_input_is_refused_in_words(values, labels, options, message):
    with pytest.raises(ValueError, match=message):
        rank(values, labels, **options)


@pytest.mark.parametrize("by", QUICK)
def test_rows_with_nan_are_named(by):
    values, labels = planted(50, 6)
    values[17, 2] = np.nan
    with pytest.raises(ValueError, match="row 17 holds NaN"):
        rank(values, labels, by)


@pytest.mark.parametrize("by", [name for name in QUICK if name not in ("relevance", "activation", "random")])
def test_values_far_from_zero_are_not_constant(by):
    values, labels = planted(200, 6, strength=3.)
    ranking = rank(values + 2e7, labels, by)
    assert len(ranking.constant) == 0 and set(ranking.top(3)) <= {0, 1, 2, 3, 4}


def test_values_of_any_size():
    values, labels = planted(200, 4, 2, strength=3.)
    tiny, usual = (rank(scale * values, labels, "mutual_information") for scale in (1e-16, 1))
    assert tiny.top(2) == usual.top(2)
    with pytest.raises(ValueError, match="too large to calculate with"), np.errstate(all="ignore"):
        rank(values * 1e200, labels, "variance")
    assert rank(np.array([[-128, 100]] * 4, np.int8), by="activation").scores.tolist() == [128, 100]


def test_integers_of_pandas_with_holes_are_classes():
    pandas = pytest.importorskip("pandas")
    values, _ = planted(300, 6)
    labels = [None, *(np.arange(299) % 30).tolist()]
    expected = rank(values, labels, "anova")
    for given in (pandas.array(labels, dtype="Int64"), pandas.Series(labels, dtype="Int64"),
                  pandas.Series([None if x is None else str(x) for x in labels], dtype="string"),
                  pandas.Series(pandas.Categorical(labels))):
        ranking = rank(values, given, "anova")
        assert len(ranking.classes) == 30 and sorted(ranking.units) == sorted(expected.units)
        np.testing.assert_allclose(np.sort(ranking.scores), np.sort(expected.scores))
    with pytest.warns(UserWarning, match="taken as numbers"):
        rank(values, pandas.Series(labels, dtype="float"), "anova")


def test_too_little_to_say_anything():
    values, _ = planted(4, 6)
    with pytest.raises(ValueError, match="more rows than classes"):
        rank(values[:2], [0, 1], "anova")
    with pytest.raises(ValueError, match="held out are the same"):
        rank(values, [.5, 1.2, 3.3, 1.], "probe")


def test_a_rare_class_among_many_rows_stays():
    random = np.random.default_rng(0)
    labels = np.arange(30_000) % 2
    labels[:6] = 2
    for seed in range(3):
        rank(random.normal(size=(30_000, 3)), labels, "gaussian", n_select=2, random_state=seed)


def test_groups_of_any_kind():
    values, labels = planted(40, 6)
    groups = [None if i % 4 == 0 else "ab"[i % 2] + str(i // 8) for i in range(40)]
    assert rank(values, labels, "probe", groups=groups).held_out is not None
    with pytest.raises(ValueError, match="groups holds 3 groups, but there are 40"):
        rank(values, labels, "probe", groups=[1, 2, 3])


def test_comparisons_of_models_look_at_no_labels():
    with pytest.raises(TypeError, match="looks at no labels"):
        rank([np.eye(3)] * 2, [0, 1, 1], "correlation")


def test_options_of_other_methods_are_refused():
    with pytest.raises(TypeError, match="no option 'n_select'; it has: n_bootstrap"):
        rank(*planted(), "anova", n_select=3)
    with pytest.raises(TypeError, match="one kind"):
        rank(np.eye(3), [1, "a", None], "anova")


def test_real_numbers_that_look_like_classes_are_told():
    with pytest.warns(UserWarning, match="taken as numbers"):
        rank(np.random.default_rng(0).normal(size=(40, 2)), [0., 1.] * 20, "anova")
