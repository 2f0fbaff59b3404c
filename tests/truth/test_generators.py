"""Networks with known insides: what each guarantees, measured again by other means. Slow: they are trained."""
import pytest
import torch

from crp.truth import (
    add_mark,
    adder_transformer,
    auroc,
    pair_network,
    train_glyph_network,
    train_shortcut_network,
)

pytestmark = pytest.mark.slow


def with_units(model, layer, units, axis, base, source):
    """Logits for inputs, with units of a layer as for others: with plain hooks of PyTorch."""
    module, kept = model.get_submodule(layer.removesuffix(":in")), []

    def exchange(tensor):
        if not kept:
            kept.append(tensor.clone())
            return None
        tensor = tensor.clone()
        tensor.movedim(axis, -1)[..., units] = kept[0].movedim(axis, -1)[..., units]
        return tensor

    def on_input(module, args):
        changed = exchange(args[0])
        return None if changed is None else (changed,)

    handle = (
        module.register_forward_pre_hook(on_input) if layer.endswith(":in")
        else module.register_forward_hook(lambda module, args, output: exchange(output))
    )
    with torch.no_grad():
        model(source)
        found = model(base)
    handle.remove()
    return found


@pytest.mark.parametrize("make", [adder_transformer, pair_network])
def test_units_carry_their_variables_and_all_others_nothing(make):
    network = make(random_state=1)
    assert network.holds
    inputs, facts = network.held_out
    order = torch.randperm(len(inputs))
    base = network.program(facts)
    assert torch.equal(network.model(inputs).argmax(1), base)
    for variable, layers in network.binding.items():
        (layer, units), = layers.items()
        answer = with_units(network.model, layer, units, network.axes[layer], inputs, inputs[order]).argmax(1)
        expected = network.program(facts, **{variable: network.program.values(facts[order])[variable]})
        assert (answer == expected).float().mean() >= .995
        assert (answer != base).any()
    for layer, size in network.sizes.items():
        idle = [unit for unit in range(size) if not network.used(layer)[unit]]
        answer = with_units(network.model, layer, idle, network.axes[layer], inputs, inputs[order]).argmax(1)
        assert (answer == base).float().mean() >= .995


@pytest.mark.parametrize("rule", ["presence", "absence"])
def test_channels_see_their_glyph_and_where_it_is(rule):
    network = train_glyph_network(rule, random_state=3)
    assert network.holds
    scenes = network.held_out
    with torch.no_grad():
        concepts = network.model[:list(dict(network.model.named_children())).index(network.layer) + 1](scenes.images)
        assert (network.model(scenes.images).argmax(1) == scenes.labels).float().mean() >= .95
    for number, (name, channels) in enumerate(network.groups.items()):
        present = scenes.present[:, number]
        for channel in channels:
            assert auroc(concepts[:, channel].amax((1, 2)), present) >= .95, name
        strongest = concepts[present][:, channels].sum(1).flatten(1).argmax(1)
        cells = torch.nn.functional.max_pool2d(scenes.masks[present, number].float()[:, None], 4)[:, 0].flatten(1)
        assert cells[torch.arange(len(cells)), strongest].mean() >= .9, name
    assert sorted([*sum(network.groups.values(), []), *network.free]) == list(range(32))
    masks = {image.sum().item(): mask for image, mask in zip(scenes.images, scenes.masks)}

    def knows(images, labels, channels):
        return torch.stack([masks[image.sum().item()][channels[0] // 4].float() for image in images])

    right, turned = network.localisation(knows), network.localisation(lambda *scene: -knows(*scene))
    assert (right.rank_accuracy, right.mass, turned.rank_accuracy, turned.mass) == (1, 1, 0, 0) and right.chance < .2
    shows = network.training.present.float().argmax(0)
    samples = torch.stack([shows.repeat_interleave(4), (~network.training.present).float().argmax(0)
                           .repeat_interleave(4)])
    assert network.purity(torch.nn.functional.pad(samples, (0, 8))) == .5


def test_the_shortcut_is_used_and_known():
    network = train_shortcut_network(random_state=1)
    assert network.holds
    images, digits = network.without_mark.tensors
    marked = digits == network.marked_class
    with torch.no_grad():
        plain, with_mark = (network.model(x).argmax(1) for x in (images, add_mark(images)))
    assert (plain[marked] != network.marked_class).float().mean() >= .5
    assert (with_mark[~marked] == network.marked_class).float().mean() >= .5
    reaction = network.reacts_to_mark("relu3")
    assert reaction.max() > 5 * reaction.abs().median()
    assert network.rank("relu3", reaction) == 1 and network.rank("relu3", -reaction) == 32
    with pytest.raises(ValueError, match="marked_class is a digit"):
        train_shortcut_network(10)
