"""Fixtures that several test files share."""
import pytest
import torch
import transformers
from inputs_of_any_kind import Text


@pytest.fixture
def text():
    return Text().eval(), torch.tensor([[1, 4, 4, 10], [0, 1, 2, 3]])


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_labels=3
    )
    return transformers.BertForSequenceClassification(config).eval()
