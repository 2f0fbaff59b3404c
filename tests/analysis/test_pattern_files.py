"""Files of patterns that somebody has changed: what they hold is checked before it is used."""
import numpy as np
import pytest
from store_files import forge_archive

from crp.analysis import Patterns, find_patterns


@pytest.fixture(scope="module")
def values():
    random = np.random.default_rng(0)
    return random.normal(0, .05, (60, 3)) + np.repeat(np.eye(3), 20, 0)


@pytest.fixture(scope="module")
def patterns(values):
    return find_patterns(values, min_pattern_size=10)


def test_nothing_in_a_file_becomes_an_argument(patterns, values, tmp_path):
    path, cache = tmp_path / "patterns.npz", tmp_path / "cache"
    patterns.save(path)
    forge_archive(path, lambda settings, arrays: settings.update(hdbscan={"memory": str(cache), "min_cluster_size": 3}))
    labels, _ = Patterns.load(path).assign(values[:5])
    assert np.array_equal(labels, patterns.assign(values[:5])[0]) and not cache.exists()


POISON = ["memory", "{0}", "../x", "<b>", 10 ** 30, -1, 1e400, True, None, [], {}, [[1]]]


@pytest.mark.parametrize("option", [
    "min_pattern_size", "min_samples", "epsilon", "method", "metric", "normalize", "reduce", "fit_samples", "source",
    "memory",
])
def test_options_in_a_file_that_cannot_be(patterns, tmp_path, option):
    path = tmp_path / "patterns.npz"
    possible = {"normalize": [True], "source": [None], "epsilon": [POISON[4]]}.get(option, [])
    for value in POISON:
        patterns.save(path)
        forge_archive(path, lambda settings, arrays: settings["options"].update({option: value}))
        if any(value is allowed for allowed in possible):
            assert len(Patterns.load(path)) == len(patterns)
        elif option == "reduce" and isinstance(value, int):
            continue  # says how many components there are, and is shown only
        else:
            with pytest.raises(ValueError, match="patterns.npz holds no 'crp-patterns 1'"):
                Patterns.load(path)


@pytest.mark.parametrize("name, change", [
    ("labels", lambda x: x.astype(float)), ("labels", lambda x: x + 10 ** 6), ("labels", lambda x: x[:-1]),
    ("labels", lambda x: x[:0]), ("samples", lambda x: x - 10 ** 6), ("samples", lambda x: x[None]),
    ("probability", lambda x: x * np.nan), ("persistence", lambda x: x[:0]), ("outlier_score", lambda x: x.astype("S")),
    ("space_scale", lambda x: x[None]), ("space_mean", lambda x: x[:-1]), ("points", lambda x: x[:, :-1]),
    ("points", lambda x: x * np.inf), ("points", lambda x: x[:-1]), ("points", lambda x: x.astype(complex)),
    ("space_axes", lambda x: np.ones((2, 3))),
])
def test_arrays_in_a_file_that_cannot_be(patterns, tmp_path, name, change):
    path = tmp_path / "patterns.npz"
    patterns.save(path)
    forge_archive(path, lambda settings, arrays: arrays.update({name: change(arrays.get(name))}))
    with pytest.raises(ValueError, match="patterns.npz holds no 'crp-patterns 1' that can be read"):
        Patterns.load(path)
