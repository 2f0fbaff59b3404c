"""What anybody can do to the files of a store: read and write records, and make all hashes right again."""
import hashlib
import json
from pathlib import Path

import numpy as np


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def read(path):
    """The fields of a record."""
    content = json.loads(Path(path).read_text())
    content.pop("sha256")
    return content


def write(path, content):
    """Write a record whose own hash is right."""
    fields = json.dumps(content)[:-1]
    digest = hashlib.sha256(f"{fields}\n}}".encode()).hexdigest()
    replace(path, f'{fields},\n "sha256": "{digest}"\n}}'.encode())


def replace(path, content):
    """Write a new file in the place of one, which may be another name of a file that is to stay."""
    Path(path).unlink(missing_ok=True)
    Path(path).write_bytes(content)


def forge(store):
    """Hash all of a store again, as it is now."""
    store = Path(store)

    def described(names, folder):
        files = (folder / name for name in names)
        return {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in files if file.is_file()}

    manifest = sha256(store / "manifest.json")
    for record in store.glob("shards/*/shard.json"):
        content = read(record)
        write(record, {**content, "manifest": manifest, "files": described(content["files"], record.parent)})
    if (store / "seal.json").exists():
        seal = read(store / "seal.json")
        shards = {record.parent.name: sha256(record) for record in sorted(store.glob("shards/*/shard.json"))}
        tables = described(seal["tables"], store / "tables")
        write(store / "seal.json", {**seal, "manifest": manifest, "shards": shards, "tables": tables})
    for record in store.glob("patterns/*.json"):
        content = read(record)
        write(record, {"files": described(content["files"], record.parent)})


def forge_archive(path, change):
    """Write a file of results again after something has been changed in its settings or arrays."""
    with np.load(path) as file:
        arrays = dict(file)
    settings = json.loads(str(arrays["settings"]))
    change(settings, arrays)
    arrays["settings"] = np.array(json.dumps(settings))
    np.savez(path, **arrays)
