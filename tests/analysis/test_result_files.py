"""Files of profiles and of response maps that say what cannot be."""
import numpy as np
import pytest
from store_files import forge_archive

from crp.analysis import GroupProfiles, ResponseMap

POISON = ["x", "{0}", -1, 1.5, None, [], {}, [[1]], [1], ["a"], {"a": -1}, {"a": 10 ** 30}, {"a": "b"}]


@pytest.fixture
def profiles(tmp_path):
    path = tmp_path / "result.npz"
    values = {"a": np.ones((2, 3)), "b": np.ones((2, 3, 4, 4))}
    GroupProfiles(["0", "1"], np.array([3, 4]), values, {"source": None}).save(path)
    return path, GroupProfiles


@pytest.fixture
def response_map(tmp_path):
    path = tmp_path / "result.npz"
    ResponseMap().fit_values({"a": np.random.default_rng(0).random((9, 4))}).save(path)
    return path, ResponseMap


def refused(path, kind, change):
    forge_archive(path, change)
    with pytest.raises(ValueError, match="result.npz holds no 'crp-.* 1' that can be read"):
        kind.load(path)


FIELDS = [
    ("profiles", "groups"), ("profiles", "layers"), ("profiles", "options"), ("response_map", "layers"),
    ("response_map", "channels"), ("response_map", "axis"),
]


def is_possible(result, field, value):
    possible = {"layers": [["a"], []] if result == "profiles" else [["a"]], "axis": [-1]}.get(field, [])
    return value in possible or field == "options" and isinstance(value, dict)


@pytest.mark.parametrize("result, field, value", [
    (result, field, value) for result, field in FIELDS for value in POISON if not is_possible(result, field, value)
])
def test_settings_that_cannot_be(request, result, field, value):
    path, kind = request.getfixturevalue(result)
    refused(path, kind, lambda settings, arrays: settings.update({field: value}))


@pytest.mark.parametrize("result, name, change", [
    ("profiles", "sizes", lambda x: x[:1]), ("profiles", "sizes", lambda x: -x),
    ("profiles", "sizes", lambda x: x.astype(float)), ("profiles", "values_0", lambda x: x[0]),
    ("profiles", "values_0", lambda x: x[:1]), ("profiles", "values_1", lambda x: x.astype("U")),
    ("response_map", "coordinates", lambda x: x.T), ("response_map", "coordinates", lambda x: x * np.nan),
    ("response_map", "changing", lambda x: ~x), ("response_map", "changing", lambda x: x.astype(int)),
    ("response_map", "low", lambda x: x[1:]), ("response_map", "high", lambda x: x.astype(complex)),
])
def test_arrays_that_cannot_be(request, result, name, change):
    path, kind = request.getfixturevalue(result)
    refused(path, kind, lambda settings, arrays: arrays.update({name: change(arrays[name])}))
