"""Fixtures that several test files share."""
import pytest
from visualizations import swept, visualization


@pytest.fixture(scope="session")
def single_path(tmp_path_factory):
    return swept(tmp_path_factory.mktemp("single")).path


@pytest.fixture
def fv(single_path):
    return visualization(single_path)
