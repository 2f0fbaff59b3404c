"""Programs, and training by interchange, measured again without the code that trains."""
import pytest
import torch
from torch import nn

from crp.truth import Program, TruthError, interchange_train
from crp.truth.interchange import _Trainer

NUMBERS = torch.cartesian_prod(torch.arange(3), torch.arange(3), torch.arange(3))
PROGRAM = Program(
    first=lambda inputs: inputs[:, 0], second=lambda inputs: inputs[:, 1],
    total=lambda first, second: (first + second) % 3, output=lambda total: total,
)
BINDING = {"first": {"1": range(8)}, "second": {"1": range(8, 16)}, "total": {"3": range(16)}}


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 3))


def images(copies=40):
    """Three digits as one-hot vectors with noise; the third means nothing."""
    facts = NUMBERS.repeat(copies, 1)
    return nn.functional.one_hot(facts, 3).flatten(1) + .05 * torch.randn(len(facts), 9), facts


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    return interchange_train(network(), PROGRAM, BINDING, images(), epochs=60, learning_rate=1e-2)


def exchanged(model, layer, units, base, source):
    """What a network answers for one input with units as for another one: by hand, module by module."""
    with torch.no_grad():
        other = source
        for name, module in model.named_children():
            base, other = module(base), module(other)
            if name == layer:
                base = base.clone()
                base[:, units] = other[:, units]
    return base.argmax(1)


def test_a_program_computes_variables_in_their_order_and_takes_others_instead():
    swapped = Program(output=lambda c: c, c=lambda b, inputs: b + inputs, b=lambda a: 2 * a, a=lambda inputs: inputs)
    assert swapped.variables == ["a", "b", "c"]
    inputs = torch.tensor([1, 2])
    assert swapped(inputs).tolist() == [3, 6]
    assert swapped(inputs, b=torch.tensor([0, 10])).tolist() == [1, 12]
    assert swapped.values(inputs, a=torch.tensor([0, 0]))["c"].tolist() == [1, 2]
    assert PROGRAM(NUMBERS).tolist() == [(a + b) % 3 for a, b, _ in NUMBERS.tolist()]


@pytest.mark.parametrize("functions, told", [
    ({"a": lambda inputs: inputs}, "a function 'output'"),
    ({"output": lambda b: b}, "'output' is computed of 'b', which is no variable"),
    ({"output": lambda a: a, "a": lambda b: b, "b": lambda a: a}, "variables need each other: a, b"),
    ({"output": lambda inputs: inputs, "inputs": lambda: 0}, "no variable 'inputs'"),
])
def test_programs_that_are_none_are_refused(functions, told):
    with pytest.raises(ValueError, match=told):
        Program(**functions)


def test_guarantees_hold_when_measured_again(trained):
    assert trained.holds and trained.check() is None
    inputs, facts = trained.held_out
    order = torch.randperm(len(facts))
    model, other = trained.model, facts[order]
    assert torch.equal(model(inputs).argmax(1), PROGRAM(facts))
    for variable, place in (("first", 0), ("second", 1)):
        given = {variable: other[:, place]}
        units = BINDING[variable]["1"]
        assert torch.equal(exchanged(model, "1", units, inputs, inputs[order]), PROGRAM(facts, **given))
    assert torch.equal(exchanged(model, "3", range(16), inputs, inputs[order]), PROGRAM(other))
    for layer, idle in (("1", range(16, 24)), ("3", range(16, 32))):
        assert torch.equal(exchanged(model, layer, idle, inputs, inputs[order]), PROGRAM(facts))
    assert trained.used("1").tolist() == [True] * 16 + [False] * 8
    assert trained.used("1", ["second"]).nonzero()[:, 0].tolist() == list(range(8, 16))
    assert trained.layers == ["1", "3"]


def test_units_and_nodes_are_scored(trained):
    perfect = {layer: trained.used(layer).float() for layer in trained.layers}
    assert trained.auroc(perfect) == 1
    assert trained.auroc({layer: -values for layer, values in perfect.items()}) == 0
    assert trained.auroc({layer: 0 * values for layer, values in perfect.items()}) == .5
    nodes = [(node.layer, node.units, node.variable) for node in trained.nodes]
    assert nodes == [
        ("1", list(range(8)), "first"), ("1", list(range(8, 16)), "second"), ("1", list(range(16, 24)), None),
        ("3", list(range(16)), "total"), ("3", list(range(16, 32)), None),
    ]
    assert trained.node_auroc([2, 2, 1, 2, 1]) == 1
    assert trained.node_auroc([1, 2, 1, 2, 3]) == pytest.approx(2.5 / 6)


def test_where_the_truth_does_not_hold_nothing_is_scored():
    untrained = interchange_train(network(), PROGRAM, BINDING, images(4), epochs=1)
    assert not untrained.holds
    for score in (untrained.check, lambda: untrained.auroc({}), lambda: untrained.node_auroc([])):
        with pytest.raises(TruthError, match=r"scores nothing: .*accuracy 0\.\d+ \(not 1\)"):
            score()


def test_training_is_reproducible_and_leaves_nothing_behind():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    inputs, facts = images(4)
    torch.set_rng_state(state)
    networks = [interchange_train(network(), PROGRAM, BINDING, (inputs, facts), epochs=2).model for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in networks)))
    assert torch.get_num_threads() == threads
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in networks[0].modules())


@pytest.mark.parametrize("binding, options, error, told", [
    ({"third": {"1": [0]}}, {}, ValueError, r"variables of the program, \['first', 'second', 'total'\]"),
    ({"first": {"9": [0]}}, {}, ValueError, "no layer '9'"),
    ({"first": {"1": [24]}}, {}, IndexError, "units 0 to 23"),
    ({"first": {"1": [0]}, "second": {"1": [0]}}, {}, IndexError, r"at most once, not \[0, 0\]"),
    ({}, {}, ValueError, "binding is of variables"),
    (BINDING, {"held_out": 1.}, ValueError, "held_out is a share"),
    (BINDING, {"epochs": 0}, ValueError, "epochs and batch_size are at least 1"),
    (BINDING, {"axis": {"11": -1}}, ValueError, r"axis is of layers that are bound or idle, 1, 3, not \['11'\]"),
    (BINDING, {"axis": 2}, ValueError, "axis 2 holds no units"),
    ({"first": {"1": []}}, {}, ValueError, "one unit of a layer at least"),
])
def test_bindings_that_cannot_be_are_refused_before_training(binding, options, error, told):
    model = network()
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(error, match=told):
        interchange_train(model, PROGRAM, binding, images(4), **options)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


@pytest.mark.parametrize("changed, told", [
    ({"output": lambda inputs: 0 * inputs[:, 0]}, "another value of 'first' changes the output in 0.0% of pairs"),
    ({"output": lambda second: second}, "'first' changes the output in 0.0%"),
    ({"output": lambda total: total / 2}, "the output of the program is classes"),
    ({"output": lambda total: total + 3}, "the program 6 classes"),
])
def test_programs_of_which_nothing_can_be_learned_are_refused(changed, told):
    functions = dict(
        first=lambda inputs: inputs[:, 0], second=lambda inputs: inputs[:, 1],
        total=lambda first, second: (first + second) % 3, output=lambda total: total,
    )
    with pytest.raises(ValueError, match=told):
        interchange_train(network(), Program(**(functions | changed)), BINDING, images(4))


def test_unknown_variables_and_scores_of_other_layers_are_refused(trained):
    with pytest.raises(TypeError, match="the variables first, second, total, and no 'frist'"):
        PROGRAM(NUMBERS, frist=NUMBERS[:, 0])
    assert Program(output=lambda inputs, k=2: inputs + k)(torch.tensor([1])).tolist() == [3]
    with pytest.raises(ValueError, match="scores are of all 24 units of '1'"):
        trained.auroc({"1": torch.zeros(32), "3": torch.zeros(24)})


class InPlace(nn.Module):
    """Writes to what a layer gives."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(9, 24), nn.Linear(9, 24), nn.Linear(24, 3)

    def forward(self, x):
        y = self.first(x)
        y += self.second(x)
        return self.head(torch.relu(y))


def test_what_a_layer_gives_is_kept_before_the_model_writes_to_it_and_layers_run_once():
    torch.manual_seed(0)
    inputs, facts = images(4)
    trainer = _Trainer(InPlace(), PROGRAM, {"first": {"first": range(8)}}, inputs, facts, [], 1, .25)
    nodes, rows = trainer.nodes["first"], trainer.held
    with torch.no_grad():
        with trainer._captured() as found:
            expected = trainer._answer(rows)
        with trainer._exchanged([nodes], found):
            assert torch.equal(trainer._answer(rows), expected)  # with their own values, nothing changes
    shared = nn.Linear(9, 9)
    twice = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(9, 3))
    with pytest.raises(ValueError, match="layer '0' runs several times"):
        interchange_train(twice, PROGRAM, {"first": {"0": range(4)}}, images(4))
