"""What comes from stores and files cannot do anything to a terminal."""
import json
import warnings

import pytest
from large_sweeps import Images, run

from crp.cli import main
from crp.cli.terminal import printable, printable_warnings

HOSTILE = "\x1b[2J\x1b]0;title\x07\r\x7f\x9b31m\u202egnp.\u2028\u200b"

pytestmark = pytest.mark.usefixtures("quick")


class Hostile(Images):
    def __getitem__(self, index):
        if index == 3:
            raise OSError(f"{HOSTILE}\ncrp verify: the store is sound")
        return super().__getitem__(index)


def check_shown(text):
    assert all(line.isprintable() for line in text.split("\n"))
    assert r"\x1b[2J\x1b]0;title\x07\r\x7f\x9b31m\u202egnp.\u2028\u200b" in text


def test_escapes_stand_for_what_cannot_be_shown():
    assert printable("a layer.0:1 – größer 日本 \N{GREEK SMALL LETTER ALPHA}") == "a layer.0:1 – größer 日本 α"
    assert printable("two\nlines\tof \udcff") == r"two\nlines\tof \udcff"
    check_shown(printable(HOSTILE))


def test_names_and_reasons_of_a_store(tmp_path, capsys):
    store = tmp_path / f"store{HOSTILE}"
    run(store, Hostile(), on_error="skip")
    main(["info", str(store)])
    out = capsys.readouterr().out
    check_shown(out)
    assert r"  3: OSError: \x1b[2J" in out and r"\ncrp verify" in out
    main(["info", str(store), "--json"])
    out = capsys.readouterr().out.rstrip("\n")
    assert out.isprintable() and HOSTILE in json.loads(out)["skipped"]["3"]
    main(["verify", str(store)])
    check_shown(capsys.readouterr().out)


def test_errors(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["info", str(tmp_path / f"{HOSTILE}\ncrp info: all is well")])
    error = capsys.readouterr().err
    check_shown(error)
    assert "\n  crp info: all is well" in error and "\ncrp" not in error


def test_warnings():
    before = warnings.formatwarning
    with printable_warnings():
        text = warnings.formatwarning(UserWarning(HOSTILE), UserWarning, "a file", 1, "a line")
        check_shown(text)
        assert text.startswith("a file:1: UserWarning: ") and text.endswith("\n  a line\n")
    assert warnings.formatwarning is before
