import itertools
import json

import numpy as np
import pytest
from killing import ended, fork, kill_at
from PIL import Image

from crp.cache import Cache, ImageCache
from crp.image import imgify
from crp.store.folder import Folder

KEY = {"layer": "features.40", "rf": True, "range": [0, 8], "targets": None}


def picture(seed=0, mode="RGB", size=(5, 4)):
    array = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(array).convert(mode)


def same(one, other):
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return one.size == other.size and np.array_equal(np.asarray(one.convert("RGBA")), np.asarray(other.convert("RGBA")))


def coloured():
    return imgify(np.arange(12.0).reshape(3, 4) - 6, symmetric=True)


@pytest.mark.parametrize("reference", [
    [picture(1), picture(2)], [picture(i) for i in range(23)], ([picture(1)], [picture(2)]),
    ([picture(i) for i in range(12)], [picture(i) for i in range(20, 32)]), tuple([picture(i)] for i in range(11)),
    [picture(1, "L")], [picture(1, "RGBA")], [picture(1, size=(1, 1)), picture(2, size=(30, 2))], [coloured()], [],
    ([], []), ([picture(1)], []), ([picture(1)],),
])
def test_pictures_come_back_as_they_were(tmp_path, reference):
    cache = ImageCache(tmp_path / "cache")
    cache.save({3: reference}, KEY)
    found, missing = ImageCache(tmp_path / "cache").load([3], KEY)
    assert missing == [] and list(found) == [3]
    assert same(found[3], reference)


def test_known_bug_cached_heatmaps_can_be_used_after_their_files_are_gone(tmp_path):
    cache = ImageCache(tmp_path)
    cache.save({1: ([picture(1)], [coloured()])}, KEY)
    found, _ = cache.load([1], KEY)
    for file in tmp_path.rglob("*.png"):
        file.unlink()
    assert same(found[1], ([picture(1)], [coloured()]))


@pytest.mark.parametrize("ids, kept, lacking", [
    ([1, 2, 3], [2], [1, 3]), (["1:2", "1:3"], ["1:3"], ["1:2"]), ([], [], []), ([5], [5], []), ([12, 1], [12], [1]),
])
def test_what_is_kept_and_what_is_missing(tmp_path, ids, kept, lacking):
    cache = ImageCache(tmp_path)
    cache.save({reference_id: [picture(7)] for reference_id in kept}, KEY)
    found, missing = cache.load(ids, KEY)
    assert list(found) == kept and missing == lacking


def test_ids_of_concepts_and_of_classes_are_told_apart(tmp_path):
    cache = ImageCache(tmp_path)
    references = {1: [picture(1)], "1:2": [picture(2)], "12:1": [picture(3)], "1:21": [picture(4)], 12: [picture(5)]}
    cache.save(references, KEY)
    found, missing = cache.load(list(references), KEY)
    assert missing == [] and all(same(found[key], references[key]) for key in references)


@pytest.mark.parametrize("other", [
    {"layer": "features.4"}, {"rf": False}, {"range": [0, 9]}, {"targets": [0]}, {"layer": "features/40"}, {"more": 1},
])
def test_another_key_finds_nothing(tmp_path, other):
    cache = ImageCache(tmp_path)
    cache.save({1: [picture(1)]}, KEY)
    assert cache.load([1], {**KEY, **other}) == ({}, [1])
    assert cache.load([1], dict(reversed(KEY.items())))[1] == []


def test_saving_again_replaces(tmp_path):
    cache = ImageCache(tmp_path)
    cache.save({1: [picture(1), picture(2)]}, KEY)
    cache.save({1: [picture(3)]}, KEY)
    assert same(cache.load([1], KEY)[0][1], [picture(3)])
    assert not [path for path in tmp_path.rglob(".*")]


def test_processes_that_keep_the_same_pictures_find_all_or_none(tmp_path):
    pictures = [[picture(10 * process + i) for i in range(2)] for process in range(4)]

    def keep_and_find(process):
        cache = ImageCache(tmp_path)
        for _ in range(100):
            cache.save({1: pictures[process]}, KEY)
            found, missing = cache.load([1], KEY)
            assert missing or any(same(found[1], kept) for kept in pictures)

    children = [fork(lambda: keep_and_find(process)) for process in range(4)]
    assert [ended(child) for child in children] == [0, 0, 0, 0]
    assert any(same(ImageCache(tmp_path).load([1], KEY)[0][1], kept) for kept in pictures)
    assert not [path for path in tmp_path.rglob(".*")]


@pytest.mark.parametrize("moved", ["1", "new"])
def test_another_process_keeps_the_same_pictures_between_any_two_steps(tmp_path, monkeypatch, moved):
    cache, rename = ImageCache(tmp_path), Folder.rename
    cache.save({1: [picture(1)]}, KEY)

    def rename_after_another(folder, name, to, new_name):
        if name == moved:
            monkeypatch.setattr(Folder, "rename", rename)
            cache.save({1: [picture(2)]}, KEY)
            if moved == "1":  # the other one has moved the pictures of before away, and not its own there yet
                folder.remove(name)
        rename(folder, name, to, new_name)

    monkeypatch.setattr(Folder, "rename", rename_after_another)
    cache.save({1: [picture(3)]}, KEY)
    assert same(cache.load([1], KEY)[0][1], [picture(2 if moved == "new" else 3)])


def test_a_process_that_is_killed_leaves_the_pictures_of_before_or_its_own(tmp_path):
    before, after = [picture(1), picture(2)], [picture(3)]
    for number in itertools.count(1):
        cache = ImageCache(tmp_path / str(number))
        cache.save({1: before}, KEY)
        was_killed = kill_at(number, lambda: cache.save({1: after}, KEY))
        found = cache.load([1], KEY)[0]
        assert 1 not in found or same(found[1], before) or same(found[1], after)
        cache.save({1: after}, KEY)
        assert same(cache.load([1], KEY)[0][1], after)
        if not was_killed:
            break
    assert number > 3


@pytest.mark.parametrize("value", [[np.zeros((3, 3))], ([picture(1)], ["text"]), 5, picture(1)])
def test_what_is_no_picture_is_refused(tmp_path, value):
    with pytest.raises(TypeError, match="PIL"):
        ImageCache(tmp_path).save({1: value}, KEY)
    assert ImageCache(tmp_path).load([1], KEY) == ({}, [1])


def test_the_folder_says_what_it_holds_and_nothing_is_pickled(tmp_path):
    ImageCache(tmp_path).save({1: ([picture(1)], [picture(2)])}, KEY)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".png", ".json"}
    assert json.loads(next(path for path in files if path.name == "key.json").read_text()) == KEY


def test_the_default_folder_is_made_when_something_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = ImageCache()
    assert list(tmp_path.iterdir()) == []
    cache.save({1: [picture(1)]}, KEY)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_references_are_joined():
    cache = ImageCache()
    one = {1: [picture(1)]}
    assert cache.extend_dict(one, {2: [], 1: []}) == {1: [], 2: []}
    assert len(one[1]) == 1


def test_caches_of_users_implement_load_and_save():
    class Memory(Cache):
        def __init__(self):
            self.kept = {}

        def load(self, ids, key):
            found = {i: self.kept[i] for i in ids if i in self.kept}
            return found, [i for i in ids if i not in found]

        def save(self, references, key):
            self.kept.update(references)

    memory = Memory()
    memory.save({1: "a"}, {})
    assert memory.load([1, 2], {}) == ({1: "a"}, [2])
    with pytest.raises(TypeError):
        Cache()
