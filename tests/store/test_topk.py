import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from crp.store.topk import top_rows

# few distinct values, so that most columns hold ties, NaN and infinities
MATRICES = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=25),
    elements=st.sampled_from([0.0, 1.0, 2.0, -1.0, np.nan, np.inf, -np.inf]),
)


def split(matrix, sizes):
    first = 0
    for size in sizes:
        yield matrix[first:first + size]
        first += size
    yield matrix[first:]


@settings(deadline=None, max_examples=150)
@given(matrix=MATRICES, k=st.integers(1, 30), sizes=st.lists(st.integers(1, 9), max_size=5))
def test_top_rows_equal_a_stable_argsort_with_nan_as_the_smallest(matrix, k, sizes):
    comparable = np.where(np.isnan(matrix), -np.inf, matrix)
    expected = np.argsort(-comparable, axis=0, kind="stable")[:k].T

    rows, values = top_rows(split(matrix, sizes), matrix.shape[1], k)

    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(comparable, expected.T, 0).T)


def test_fewer_rows_than_asked_for_come_back_whole():
    rows, values = top_rows([np.array([[1.0, 5.0], [3.0, 4.0]])], 2, 40)
    assert rows.tolist() == [[1, 0], [0, 1]]
    assert values.tolist() == [[3.0, 1.0], [5.0, 4.0]]


def test_among_equal_values_the_lower_row_stays_when_later_blocks_repeat_them():
    block = np.ones((3, 1), dtype=np.float32)
    rows, _ = top_rows([block, block, block + 1, block], 1, 4)
    assert rows.tolist() == [[6, 7, 8, 0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_keep_their_type(dtype):
    _, values = top_rows([np.ones((3, 2), dtype)], 2, 2)
    assert values.dtype == dtype


def test_no_rows_are_asked_for():
    rows, values = top_rows([np.ones((3, 2))], 2, 0)
    assert rows.shape == values.shape == (2, 0)


@pytest.mark.parametrize("blocks", [[], [np.ones((0, 2))]])
def test_there_are_no_rows(blocks):
    rows, values = top_rows(blocks, 2, 40)
    assert rows.shape == values.shape == (2, 0)
