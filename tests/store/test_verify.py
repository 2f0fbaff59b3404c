"""Damaged and foreign stores are recognised, and are never read wrongly."""
import json
import os
import random
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from large_sweeps import Images, contents, network, run, visualization
from store_files import read, sha256, write
from torch import nn
from zennit.composites import EpsilonPlusFlat

from crp.analysis import Patterns
from crp.attribution import CondAttribution
from crp.cli.runs import info
from crp.concepts import ChannelConcept
from crp.model.samples import SampleError
from crp.store import ReferenceStore, StoreError, verify
from crp.store.place import place_of_store
from crp.visualization import FeatureVisualization

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def sound(tmp_path_factory, quick):
    path = tmp_path_factory.mktemp("sound") / "store"
    run(path, checkpoint=4)
    visualization(path).find_patterns("fc", min_pattern_size=3)
    assert (path / "patterns").is_dir() and verify(path) == []
    return path


@pytest.fixture(scope="module")
def files(sound):
    return sorted(contents(sound))


def read_everything(path):
    """All that can be asked of a store."""
    store = ReferenceStore(path)
    found = [store.layers, store.skipped, store.ranges, store.options, store.predictions.tolist()]
    for layer in store.layers:
        for quantity in ("relevance", "activation"):
            found += [store.rows(quantity).tolist(), store.values(layer, quantity)[:].tolist(),
                      store.values(layer, quantity, normalised=True)[:].tolist(),
                      store.positions(layer, quantity)[:].tolist()]
            for concept in store.concepts(layer):
                found += [[part.tolist() for part in store.top(layer, concept, quantity, k, target)]
                          for k, target in ((5, None), (50, None), (5, 1))]
                found += [part.tolist() for part in store.class_means(layer, concept, quantity, 3)]
    found.append(np.asarray(Patterns.load(store, layer="fc").labels).tolist())
    return found


@pytest.fixture(scope="module")
def expected(sound):
    return read_everything(sound)


def damage(path, how, where, generator):
    """Change a file."""
    content = bytearray(path.read_bytes())
    place = int(where * len(content))
    if how == "flip":
        content[place] ^= 1 << generator.randrange(8)
    elif how == "truncate":
        content = content[:place]
    elif how == "insert":
        content[place:place] = generator.randbytes(generator.randrange(1, 9))
    elif how == "repeat":
        content[place:place] = content[:place]
    elif how == "random":
        content[place:place + 64] = generator.randbytes(64)
    changed = bytes(content) != path.read_bytes()
    path.write_bytes(content)
    return changed


@pytest.mark.parametrize("how", ["flip", "truncate", "insert"])
def test_any_change_of_any_file_is_found(sound, files, tmp_path, how):
    generator = random.Random(how)
    for name in files:
        path = tmp_path / "store"
        shutil.copytree(sound, path)
        assert damage(path / name, how, generator.random(), generator)
        problems = verify(path)
        assert problems and any(str(path / name) in problem for problem in problems), (name, problems)
        shutil.rmtree(path)
    assert len(files) > 20


RECORDS = {
    "manifest.json": place_of_store, "seal.json": lambda path: place_of_store(path).seal(),
    "shards/00000000/shard.json": lambda path: place_of_store(path).shard("00000000"),
}


def test_each_byte_of_the_records_counts(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "store")
    for name in RECORDS:
        file = tmp_path / "store" / name
        written = file.read_bytes()
        for place in range(0, len(written), 7):
            changed = bytearray(written)
            changed[place] ^= 1 << place % 8
            file.write_bytes(changed)
            with pytest.raises(StoreError, match="damaged"):
                RECORDS[name](tmp_path / "store")
        file.write_bytes(written)
    assert verify(tmp_path / "store") == []


def test_missing_extra_and_exchanged_files_are_found(sound, files, tmp_path):
    for name in files:
        path = tmp_path / "store"
        shutil.copytree(sound, path)
        (path / name).unlink()
        assert verify(path), name
        shutil.rmtree(path)
    extra = "notes.txt", "shards/00000000/extra.npy", "tables/extra.npy", "patterns/x.npz"
    for name in extra:
        path = tmp_path / "store"
        shutil.copytree(sound, path)
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(b"x")
        assert any("does not belong" in problem and name.split("/")[-1] in problem for problem in verify(path))
        shutil.rmtree(path)
    path = tmp_path / "store"
    shutil.copytree(sound, path)
    (path / "shards" / ".00000000.0123456789ab.1.abcdef01").mkdir()
    (path / "shards" / ".00000000.0123456789ab.1.abcdef01" / "x.npy").write_bytes(b"x")
    assert len(verify(path)) == 1 and "was left by a run" in verify(path)[0]
    shutil.rmtree(path / "shards" / ".00000000.0123456789ab.1.abcdef01")
    first, second = (path / "shards" / name for name in ("00000000", "00000016"))
    first.rename(path / "x"), second.rename(first), (path / "x").rename(second)
    assert verify(path)
    with pytest.raises(StoreError):
        read_everything(path)


def test_an_edited_manifest_is_found_even_with_a_new_hash(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "store")
    manifest = read(tmp_path / "store" / "manifest.json")
    manifest["settings"]["composite"]["class"] = "Other"
    write(tmp_path / "store" / "manifest.json", manifest)
    assert len(verify(tmp_path / "store")) >= 3
    with pytest.raises(StoreError, match="manifest"):
        ReferenceStore(tmp_path / "store")


def test_unfinished_stores_can_be_sound(tmp_path):
    with pytest.raises(SampleError):
        run(tmp_path, Images(broken=[30]))
    assert verify(tmp_path) == []
    file = tmp_path / "shards" / "00000008" / "L0000.activation.value.npy"
    damage(file, "flip", .9, random.Random(0))
    assert verify(tmp_path) == [f"{file} is damaged: its bytes have changed"]
    with pytest.raises(StoreError, match="L0000.activation.value.npy is damaged"):
        run(tmp_path)


def test_what_is_no_store(tmp_path):
    assert verify(tmp_path / "nothing") == [f"{tmp_path / 'nothing'}: there is no store: make one with "
                                            "FeatureVisualization.run"]


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    number=st.integers(0, 10 ** 6), how=st.sampled_from(["flip", "truncate", "insert", "repeat", "random"]),
    where=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 1000),
)
def test_a_mutated_store_gives_the_right_answers_or_an_error_of_ours(
    sound, files, expected, tmp_path, number, how, where, seed
):
    path = tmp_path / "store"
    if not path.exists():
        shutil.copytree(sound, path)
    file = path / files[number % len(files)]
    content = file.read_bytes()
    damage(file, how, where, random.Random(seed))
    try:
        found = read_everything(path)
    except StoreError:
        found = expected
    finally:
        file.write_bytes(content)
    assert found == expected


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10 ** 12) | st.text(max_size=8) | st.just("../../x") | st.just(1e999),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=8), part, max_size=3), max_leaves=6,
)


def paths_into(content, prefix=()):
    yield prefix
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from paths_into(value, (*prefix, key))


def make_hashes_right(path):
    manifest, seal = sha256(path / "manifest.json"), read(path / "seal.json")
    for shard in path.glob("shards/*/shard.json"):
        record = read(shard)
        if "manifest" in record:
            write(shard, {**record, "manifest": manifest})
        seal["shards"][shard.parent.name] = sha256(shard)
    write(path / "seal.json", {**seal, "manifest": manifest})


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["manifest.json", "seal.json", "shards/00000000/shard.json"]),
    number=st.integers(0, 10 ** 6), value=_JSON,
)
def test_records_that_say_something_else_with_a_right_hash_give_errors_of_ours(
    sound, expected, tmp_path_factory, name, number, value
):
    path = tmp_path_factory.mktemp("edited") / "store"
    shutil.copytree(sound, path)
    content = read(path / name)
    places = [place for place in paths_into(content) if place]
    place = places[number % len(places)]
    part = content
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    write(path / name, content)
    if name != "seal.json":  # as far as one can go without touching the matrices
        make_hashes_right(path)
    try:
        found = read_everything(path)
        found[1:4] = expected[1:4]  # skipped samples, ranges and options are what the records say
        info(path)
        visualization(path).compute_stats(0, "fc", "relevance")
        run(path, checkpoint=4)
    except StoreError:
        found = expected
    finally:
        problems = verify(path)
        shutil.rmtree(path)
    assert isinstance(problems, list) and len(found) == len(expected)


NAMES = ["a/b", "..", "../x", "with.dots", "with space", "Schicht-ö-層", "x" * 300, "seal.json", "L0000", "CON"]


class Named(nn.Module):
    """Layers of any name."""

    def __init__(self):
        super().__init__()
        self.first = nn.Flatten()
        self.parts = {}
        for name in NAMES:
            layer = nn.Linear(36, 36)
            self._modules[name.replace(".", "_") if "." in name else name] = layer
            self.parts[name] = layer
        self.out = nn.Linear(36, 3)

    def forward(self, x):
        x = self.first(x)
        for layer in self.parts.values():
            x = layer(x)
        return self.out(x)


def test_layers_of_any_name(tmp_path):
    model = Named().eval()
    layers = {name: ChannelConcept() for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    fv = FeatureVisualization(CondAttribution(model), Images(), layers, path=tmp_path / "store")
    store = fv.run(EpsilonPlusFlat(), 0, 8)
    assert set(store.layers) == set(layers) and verify(tmp_path / "store") == []
    assert all(store.values(layer).shape == (8, store.entry(layer).concepts) for layer in layers)
    assert sorted(os.listdir(tmp_path)) == ["store"]
    json.loads((tmp_path / "store" / "manifest.json").read_text())
    assert network()
