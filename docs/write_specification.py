"""Writes what the explorer's server says that it answers into ``crp/explorer/openapi.json``."""
import json
from pathlib import Path

import crp.explorer
from crp.explorer.server import specification

if __name__ == "__main__":
    path = Path(crp.explorer.__file__).parent / "openapi.json"
    path.write_text(json.dumps(specification(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
