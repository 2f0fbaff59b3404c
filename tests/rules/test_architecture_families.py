"""The books close in a member of each family of models, or what keeps them from it is named."""
import warnings

import pytest
from architecture_tables import FAMILIES
from architectures import audit


def the_cause_is_named(found, told):
    return bool(found.faults) or any("by its gradient" in text or "relevance ends at" in text for text in told)


@pytest.mark.slow
@pytest.mark.parametrize("library, name", [(library, name) for library in FAMILIES for name in FAMILIES[library]])
def test_the_books_close_or_the_cause_is_named(library, name):
    architecture = FAMILIES[library][name]()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = audit(*architecture)
    closes = found.accounted == pytest.approx(1, abs=1e-3)
    assert closes or the_cause_is_named(found, [str(warning.message) for warning in told])
    assert closes or library == "transformers" and name in NOT_CLOSED


NOT_CLOSED = {"sew-d"}  # its softmax is a torch.autograd.Function
