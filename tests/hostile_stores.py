"""What a stranger can do to a small store, drawn at random; and all that can be asked of it."""
import os
import shutil
import socket
import stat
import struct
import tempfile
from pathlib import Path
from tokenize import TokenError
from zipfile import BadZipFile

import numpy as np
from hypothesis import strategies as st
from large_sweeps import Images, visualization
from store_files import forge, read, replace, write
from zennit.composites import EpsilonPlusFlat

from crp.analysis import Patterns, ResponseMap, TopographicMap, group_profiles
from crp.cli.runs import info, merge
from crp.helper import load_maximization, load_statistics
from crp.store import ReferenceStore, export_parquet, export_zarr

SAMPLES = 12
KINDS = {
    "all": {}, "top": {"keep": "top"}, "float16": {"dtype": "float16"}, "unfinished": {},
    "unfinished_top": {"keep": "top"},
}


def make(path, kind):
    """A store of two layers; finished ones have three shards and patterns, others lack their last shard."""
    fv, options = visualization(path, Images(length=SAMPLES)), KINDS[kind]
    if kind.startswith("unfinished"):
        fv.sweep(EpsilonPlusFlat(), batch_size=4, checkpoint=1, **options).run_part(0, 8)
        return
    fv.run(EpsilonPlusFlat(), 0, SAMPLES, 4, 1, **options)
    if options.get("keep") != "top":
        fv.find_patterns("fc", min_pattern_size=3)


TEXTS = [
    "../../x", "/etc/passwd", "a\0b", "\n", "\ud800", "%s{0.__class__}", "{0.__init__.__globals__}", "x" * 5000,
    "__class__", "", "NaN", "sweep-0123456789abcdef-0", "00000000", "L0000", "..", "manifest.json", "L0000.npy", "0",
]
NUMBERS = [-1, 0, 1, 2, 3, 13, 2 ** 31 - 1, 2 ** 31, 2 ** 63 - 1, 2 ** 63, 10 ** 400, 1.5, float("1e308")]
VALUES = st.one_of(
    st.sampled_from(TEXTS), st.sampled_from(NUMBERS), st.none(), st.booleans(),
    st.sampled_from([[], {}, [[]], {"a": {}}, ["x"], [0, 1], [[0, 12]], [[5, 3]], {"3": "y"}, [1] * 9]),
    st.recursive(st.integers() | st.text(max_size=4), lambda x: st.lists(x, max_size=3), max_leaves=4),
)


def places_in(content, where=()):
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*where, key)
        yield from places_in(value, (*where, key))


def change_record(draw, file):
    content = read(file)
    places = list(places_in(content))
    where = places[draw(st.integers(0, len(places) - 1))]
    part = content
    for key in where[:-1]:
        part = part[key]
    how = draw(st.sampled_from(["set", "set", "remove", "add", "rename"]))
    if how == "set":
        part[where[-1]] = draw(VALUES)
    elif how == "remove":
        del part[where[-1]]
    elif isinstance(part, list):
        part.insert(0, draw(VALUES))
    elif how == "add":
        part[draw(st.sampled_from(TEXTS))] = draw(VALUES)
    else:
        part[draw(st.sampled_from(TEXTS))] = part.pop(where[-1])
    write(file, content)


RAW_RECORDS = [
    b"", b"{}", b"null", b"[" * 5000, b'{"a": ' * 3000, b'{"a": [' + b"1," * 300_000 + b"1]\n}", b'{"a": 1e999\n}',
    b'{"a": ' + b"9" * 5000 + b"\n}", b'{"a": NaN\n}', b'{"format": "crp-store", "format": 1\n}',
    b'{"\\ud800": "\\udfff"\n}',
    b'{"a": "\xed\xa0\x80"\n}', b'"' * 100_001 + b"\n}", b"\xff\xfe{\0}\0", b'{"files": {}, "files": []\n}',
]


def replace_record(draw, file):
    import hashlib
    content = draw(st.sampled_from(RAW_RECORDS))
    digest = hashlib.sha256(content).hexdigest()
    replace(file, content[:-2] + f',\n "sha256": "{digest}"\n}}'.encode())


HEADERS = [
    ("<f4", "float32"), ("'<f4'", "'|O'"), ("'<f4'", "'<f8'"), ("False", "True"), ("(", "(-1, "), ("(", "(0, "),
    ("(", "(99999999999, "), ("'<f4'", "[('a', '<f4')]"), ("'<i8'", "'>i8'"), ("descr", "eval("), ("{", "{" * 200),
]


def change_header(draw, file):
    content = file.read_bytes()
    end = 10 + int.from_bytes(content[8:10], "little")
    how = draw(st.sampled_from(["text", "version", "length", "truncate", "append", "magic"]))
    if how == "text":
        old, new = draw(st.sampled_from(HEADERS))
        header = content[10:end].decode("latin-1").replace(old, new, 1).rstrip() + "\n"
        content = content[:8] + struct.pack("<H", len(header)) + header.encode() + content[end:]
    elif how == "version":
        major = draw(st.sampled_from([2, 3, 0, 255]))
        content = content[:6] + bytes([major, 0]) + struct.pack("<I", end - 10) + content[10:]
    elif how == "length":
        content = content[:8] + struct.pack("<H", draw(st.sampled_from([0, 1, 4097, 65535]))) + content[10:]
    elif how == "truncate":
        content = content[:draw(st.integers(0, len(content)))]
    elif how == "append":
        content += b"x" * draw(st.integers(1, 9))
    else:
        content = b"PK\x03\x04" + content[4:]
    replace(file, content)


ENTRIES = [
    -1, -2, 0, 1, 5, 11, 12, 39, 2 ** 31 - 1, -2 ** 31, 2 ** 62, -2 ** 63, 2 ** 63 - 1, float("nan"), float("inf"),
]


def change_numbers(draw, file):
    array = np.load(file, allow_pickle=False)
    how = draw(st.sampled_from(["entry", "entry", "all", "reverse", "grow", "shrink"]))
    flat = array.reshape(-1)
    part = flat if array.dtype.names is None else flat[draw(st.sampled_from(array.dtype.names))]
    if how in ("entry", "all") and len(flat):
        value = draw(st.sampled_from(ENTRIES))
        with np.errstate(all="ignore"):
            if part.dtype.kind == "i":
                limits = np.iinfo(part.dtype)
                value = int(np.clip(0 if value != value else value, limits.min, limits.max)) if abs(
                    value) != float("inf") else limits.max
            part[slice(None) if how == "all" else draw(st.integers(0, len(part) - 1))] = value
    elif how == "reverse":
        array = array[::-1]
    elif how == "grow":
        axis = draw(st.integers(0, array.ndim - 1))
        array = np.concatenate([array] * draw(st.sampled_from([2, 30])), axis)
    else:
        array = array[:draw(st.integers(0, len(array)))]
    file.unlink()
    np.save(file, np.ascontiguousarray(array))


def change_archive(draw, file):
    content = bytearray(file.read_bytes())
    marks = [place for mark in (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07")
             for place in find_all(content, mark)]
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(marks)) + draw(st.integers(4, 60))
        value = draw(st.sampled_from([b"\0", b"\1", b"\x08", b"\x0c", b"\x0e", b"\xff" * 4, b"../", b"\x7f" * 8]))
        content[place:place + len(value)] = value
    replace(file, bytes(content))


def find_all(content, mark):
    place = content.find(mark)
    while place >= 0:
        yield place
        place = content.find(mark, place + 1)


def change_kind(draw, file):
    """Put something else in the place of a file or folder."""
    how = draw(st.sampled_from(["remove", "link", "loop", "pipe", "socket", "folder", "file", "sparse", "outside"]))
    shutil.rmtree(file) if file.is_dir() else file.unlink()
    if how in ("link", "outside"):
        file.symlink_to("/etc/passwd" if how == "outside" else file.parent.parent)
    elif how == "loop":
        file.symlink_to(file)
    elif how == "pipe":
        os.mkfifo(file)
    elif how == "socket":
        with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as made:
            made.bind(f"{short}/s")
            os.rename(f"{short}/s", file)
    elif how == "folder":
        (file / "x").mkdir(parents=True)
    elif how == "file":
        file.write_bytes(b"x")
    elif how == "sparse":
        with open(file, "wb") as made:
            made.truncate(2 ** 40)


NAMES = [
    "x.npy", "00000008 copy", "00000016", "99999999999999999999", ".lock", "seal.json", "lock", "x" * 200,
    ".run.0123456789ab.1.01234567", ".00000004.0123456789ab.99999999999999.01234567", "sweep-0123456789abcdef-0",
]


def add(draw, folder):
    name = folder / draw(st.sampled_from(NAMES))
    if not os.path.lexists(name):
        name.mkdir() if draw(st.booleans()) else name.write_bytes(b"x")
        if draw(st.booleans()):
            change_kind(draw, name)


def mutate(draw, store):
    """Change something of a store, and make the hashes right again or not."""
    for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
        folders, files = contents(store)
        records, arrays, archives = (
            [file for file in files if file.suffix == end] for end in (".json", ".npy", ".npz")
        )
        changes = {
            change_record: records, replace_record: records, change_header: arrays, change_numbers: arrays,
            change_archive: archives, change_kind: [*folders, *files], add: [store, *folders],
        }
        possible = [change for change, places in changes.items() if places]
        change = draw(st.sampled_from([*possible, change_record, change_numbers, change_numbers]))
        if not changes[change]:
            continue
        try:
            change(draw, draw(st.sampled_from(changes[change])))
        except (
            ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RecursionError, TypeError,
            ValueError, BadZipFile, TokenError,
        ):  # it has been changed before, to something that cannot be changed so
            continue
        are_files = all(path.is_file() for path in store.rglob("*.json"))  # a pipe would be waited for
        if are_files and draw(st.sampled_from([True, True, True, False])):
            try:
                forge(store)
            except (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RecursionError, TypeError,
                    ValueError):  # there is nothing left to hash
                pass


def contents(store):
    """The folders in a store, and the files that are not sparse, in order and not through links."""
    folders, files = [], []
    for where, _, names in os.walk(store):
        folders.append(Path(where))
        files += (Path(where, name) for name in names)
    regular = [file for file in files if stat.S_ISREG((status := file.lstat()).st_mode) and status.st_size < 2 ** 30]
    return sorted(folders[1:], key=str), sorted(regular, key=str)


def ask(path):
    """Yield what can be asked of a store at once, each to be called for itself."""
    def of_store(question):
        return lambda: question(ReferenceStore(path))

    yield lambda: info(path)
    yield lambda: merge(path, 0, 8)
    for quantity in ("relevance", "activation"):
        for layer in ("conv", "fc"):
            yield of_store(lambda s: [s.top(layer, 0, quantity, 5), s.top(layer, 1, quantity, 50), repr(s), s.skipped])
            yield of_store(lambda s: [s.top(layer, 0, quantity, 5, 1), s.sorted_rows(layer, quantity, 1)])
            yield of_store(lambda s: [s.profile_of_classes(layer, quantity), s.sorted_rows(layer, quantity)])
            yield of_store(lambda s: s.class_means(layer, 0, quantity, 2))
            yield of_store(lambda s: [np.asarray(s.values(layer, quantity)), s.positions(layer, quantity)[:]])
        yield of_store(lambda s: [s.rows(quantity), s.targets_of_rows(quantity), s.predictions, s.membership(quantity)])
        yield of_store(lambda s: group_profiles(s, "target", quantity=quantity))
    yield of_store(lambda s: Patterns.load(s, layer="fc"))


def ask_slowly(path):
    """Yield what takes a moment; exports lie beside the store."""
    copies = path.parent / "copies"
    def of_store(question):
        return lambda: question(ReferenceStore(path))

    yield of_store(lambda s: Patterns.load(s, layer="fc").assign(np.zeros((2, 4))))
    yield of_store(lambda s: s.to_xarray())
    yield of_store(lambda s: export_zarr(s, copies / "zarr"))
    yield of_store(lambda s: export_parquet(s, copies / "parquet"))
    yield lambda: visualization(path, Images(length=SAMPLES)).get_max_reference([0], "fc", "relevance", plot_fn=None)
    yield lambda: visualization(path, Images(length=SAMPLES)).get_max_reference(
        [0], "conv", "activation", composite=EpsilonPlusFlat(), rf=True, plot_fn=None
    )
    yield lambda: visualization(path, Images(length=SAMPLES)).compute_stats(0, "fc", "relevance")
    yield lambda: load_maximization(visualization(path, Images(length=SAMPLES)).ActMax.PATH, "fc")
    yield lambda: load_statistics(visualization(path, Images(length=SAMPLES)).RelStats.PATH, "conv", 1)

    def run(**options):
        keep = info(path).options
        visualization(path, Images(length=SAMPLES)).run(
            EpsilonPlusFlat(), 0, SAMPLES, 4, 1, keep=keep["keep"], dtype=keep["dtype"], **options
        )
        return ReferenceStore(path).rows()

    yield lambda: ResponseMap().fit_store(ReferenceStore(path)).coordinates
    yield lambda: TopographicMap("pca").fit(group_profiles(ReferenceStore(path)), "conv").coordinates
    yield run
    yield lambda: run(overwrite=True)


