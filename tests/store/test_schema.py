"""Records say what the schema describes, and nothing else."""
import copy
import re
import sys
import zipfile
from pathlib import Path

import pytest
from store_files import read, write

from crp.store import StoreError
from crp.store.folder import opened
from crp.store.place import place_of_store
from crp.store.schema import read_patterns_record

ARCHIVE = Path(__file__).with_name("stores_of_before.zip")
RECORDS = {
    "manifest.json": place_of_store,
    "seal.json": lambda store: place_of_store(store).seal(),
    "shards/00000000/shard.json": lambda store: place_of_store(store).shard("00000000"),
    "patterns/L0000.activation.json": lambda store: read_patterns(store, "L0000.activation.json"),
}
MAY_BE_NONE = {("dataset", "samples"), ("dataset", "targets")}
POISON = [
    "__import__('os').system('touch ran')", "{0.__class__.__init__.__globals__}", "%s%n", "../../ran", "/etc/passwd",
    "!!python/object/apply:os.system ['touch ran']", "cos\nsystem\n(S'touch ran'\ntR.", "a\0b", "\ud800", "\x1b[2J",
]
MAPPINGS = {"attributes", "hooks", "rules", "operations", "skipped", "shards", "tables", "files"}  # keys are names


def read_patterns(store, name):
    with opened(store, "patterns") as folder:
        return read_patterns_record(folder, name)


@pytest.fixture
def store(tmp_path):
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    return tmp_path / "finished"


def places(value, where=()):
    """Where in a record there is anything, from the whole to the leaves."""
    yield where, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*where, key))


def refuse(store, name, content, where, value):
    """Put a value into a record, whose own hash is then right, and expect an error that names the place."""
    changed = copy.deepcopy(content)
    part = changed
    for key in where[:-1]:
        part = part[key]
    part[where[-1]] = value
    write(store / name, changed)
    with pytest.raises(StoreError, match="holds something impossible|is not of the format") as caught:
        RECORDS[name](store)
    assert str(store) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", RECORDS)
def test_a_value_of_another_kind_is_refused_anywhere(store, name):
    content = read(store / name)
    RECORDS[name](store)
    tried = 0
    for where, value in places(content):
        if where and where[-2:] not in MAY_BE_NONE:
            others = {"int": ["7", -1, 2 ** 70, 1.5, True, POISON[0]], "str": [7, None, "x" * 70_000, [], {}],
                      "bool": [1, "yes", POISON[0]]}
            for other in others.get(type(value).__name__, [7, "seven"]):
                refuse(store, name, content, where, other)
                tried += 1
    assert tried > 5


@pytest.mark.parametrize("name", RECORDS)
def test_an_entry_that_nobody_knows_is_refused_anywhere(store, name):
    content = read(store / name)
    for where, value in places(content):
        if isinstance(value, dict) and (not where or where[-1] not in MAPPINGS):
            assert "eval" in refuse(store, name, content, (*where, "eval"), "import os")


@pytest.mark.parametrize("where, value, message", [
    (("settings", "layers", 0, "key"), "../secret", "settings.layers.0.key"),
    (("settings", "layers", 0, "name"), "1", "two layers have the same name"),
    (("settings", "options", "keep"), "some", "settings.options.keep.*'all' or 'top'"),
    (("settings", "dataset", "length"), 0, "settings.dataset.length.*greater than or equal to 1"),
])
def test_the_error_names_the_place_and_what_may_stand_there(store, where, value, message):
    found = refuse(store, "manifest.json", read(store / "manifest.json"), where, value)
    assert re.search(message, found), found


@pytest.mark.parametrize("name", RECORDS)
def test_nothing_in_a_record_is_executed(store, name, monkeypatch):
    """Where a text may stand it is a text, as a value and as the name of an entry; elsewhere it is refused."""
    monkeypatch.chdir(store.parent)
    content, happened = read(store / name), []
    events = {"exec", "compile", "os.system", "subprocess.Popen", "pickle.find_class", "import"}
    _heard.append(lambda event: event in events and happened.append(event))
    for where, _ in places(content):
        for poison in POISON:
            if not where:
                write_and_read(store, name, {**content, poison: 1})
                continue
            changed = copy.deepcopy(content)
            part = changed
            for key in where[:-1]:
                part = part[key]
            part[where[-1]] = poison
            write_and_read(store, name, changed)
    _heard.clear()
    assert happened == [] and not (store.parent / "ran").exists() and not (store.parent.parent / "ran").exists()


def write_and_read(store, name, record):
    write(store / name, record)
    try:
        RECORDS[name](store)
    except StoreError as error:
        assert str(error).isprintable()


_heard = []
sys.addaudithook(lambda event, arguments: [hear(event) for hear in _heard])
