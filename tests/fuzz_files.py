"""Bytes that a coverage-guided fuzzer makes up, read as the records, headers and archives of stores.

``python tests/fuzz_files.py -runs=100000`` tries so many; other arguments are those of libFuzzer. What is no file of a
store is a ValueError, of which StoreErrors are a kind. Records get their right hash, or nothing would be read.
"""
import hashlib
import io
import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["crp.store"]):
    from crp.store.archive import archive_bytes, read_archive
    from crp.store.folder import StoreError, opened
    from crp.store.npy import header_of, read_header, read_header_of_others
    from crp.store.records import read_record
    from crp.store.schema import Manifest, PatternsRecord, RunNote, Seal, ShardRecord, checked

KINDS = Manifest, Seal, ShardRecord, PatternsRecord, RunNote
_folder = Path(tempfile.mkdtemp())


def record(content: bytes) -> None:
    body = content.rstrip(b"\n}")
    digest = hashlib.sha256(body + b"\n}").hexdigest()
    (_folder / "record").write_bytes(body + f',\n "sha256": "{digest}"\n}}'.encode())
    with opened(_folder) as folder:
        fields, _ = read_record(folder, "record", "it is there")
    for kind in KINDS:
        try:
            checked(kind, fields, _folder / "record")
        except StoreError:
            pass


def header(content: bytes) -> None:
    for read in (read_header, read_header_of_others, partial(read_header_of_others, text=True)):
        dtype, *_, start = read(io.BytesIO(content))
        assert not dtype.hasobject and start <= len(content)


def archive(content: bytes) -> None:
    (_folder / "archive").write_bytes(content)
    read_archive(_folder / "archive", "kind", lambda settings, arrays: arrays)


READERS = record, header, archive


def read(content: bytes) -> None:
    """Read what follows the first byte, which says as what."""
    try:
        READERS[sum(content[:1]) % len(READERS)](content[1:])
    except ValueError:
        pass


def write_examples(folder: Path) -> None:
    """Write what the fuzzer begins with."""
    shard = {"manifest": "0" * 64, "first": 0, "stop": 4, "rows": {"relevance": 4, "activation": 4}, "skipped": {},
             "files": {"x.npy": {"bytes": 9, "sha256": "0" * 64}}}
    seal = {"manifest": "0" * 64, "samples": [[0, 4]], "skipped": {"3": "x"}, "shards": {"00000000": "0" * 64},
            "tables": {}}
    for number, fields in enumerate([shard, seal]):
        (folder / f"record{number}").write_bytes(b"\0" + json.dumps(fields).encode())
    (folder / "header").write_bytes(b"\1" + header_of(np.dtype("<f4"), (3, 4)))
    (folder / "archive").write_bytes(b"\2" + archive_bytes("kind", {}, {"x": np.ones(3)}))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as corpus:
        write_examples(Path(corpus))
        atheris.Setup([*sys.argv, corpus], read)
        atheris.Fuzz()
