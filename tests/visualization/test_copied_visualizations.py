"""Visualizations can be copied and pickled, and read the store of the original."""
import copy
import pickle

import numpy as np
import pytest
from visualizations import swept, visualization
from zennit.composites import EpsilonPlusFlat

from crp.cache import ImageCache

pytestmark = pytest.mark.usefixtures("quick")


def pickled(value):
    return pickle.loads(pickle.dumps(value))


def shifted(data):
    return data + 1


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled])
def test_copies_show_the_references_of_the_original(tmp_path, copied):
    fv = swept(tmp_path / "store", preprocess_fn=shifted, cache=ImageCache(tmp_path / "cache"))
    composite = EpsilonPlusFlat()
    wanted = {"composite": composite, "plot_fn": None, "r_range": (0, 2)}
    expected = fv.get_max_reference(1, "conv2", **wanted)
    other = copied(fv)
    assert (other.attribution.model is fv.attribution.model) == (copied is copy.copy)
    for found, right in zip(other.get_max_reference(1, "conv2", **wanted)[1], expected[1]):
        np.testing.assert_allclose(found, right, rtol=1e-9, atol=1e-12)
    assert other.run(composite, 0, len(other.dataset), batch_size=7).path == tmp_path / "store"


def test_a_function_without_a_name_is_refused_as_pickle_does(tmp_path):
    fv = visualization(tmp_path, preprocess_fn=lambda data: data + 1)
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pickle.dumps(fv)
    assert copy.deepcopy(fv).preprocess_fn is fv.preprocess_fn
