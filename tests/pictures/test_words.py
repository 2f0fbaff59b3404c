"""Shares in words."""
import pytest

from crp.pictures.words import percent


@pytest.mark.parametrize("part, text", [
    (1, "100%"), (0.256, "26%"), (0.0996, "10%"), (0.0994, "9.9%"), (0.0234, "2.3%"), (0.0004, "0.04%"), (0., "0%"),
    (-0., "0%"), (-0.004, "-0.4%"), (-0.33, "-33%"),
])
def test_small_shares_have_two_digits(part, text):
    assert percent(part) == text
