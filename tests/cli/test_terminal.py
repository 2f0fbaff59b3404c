"""What comes from stores and files cannot do anything to a terminal."""
import json
import warnings

import pytest
from large_sweeps import Images, run

from crp.cli import main
from crp.cli.terminal import in_flags, printable, printable_warnings

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


@pytest.mark.parametrize("message, expected", [
    ("60 rows are too few for min_samples=99, min_pattern_size=5",
     "60 rows are too few for --min-samples 99, --min-pattern-size 5"),
    ("min_samples is at least 1, not 0", "--min-samples is at least 1, not 0"),
    ("run with overwrite=True.", "run with --overwrite."), ("dtype='float16': no", "--dtype float16: no"),
    ("the method of quantity theory", "the method of quantity theory"), ("dataset.dtype=3", "dataset.dtype=3"),
    ("min_samples_of_mine=3", "min_samples_of_mine=3"),
])
def test_messages_name_flags(message, expected):
    options = {"min_samples": 5, "min_pattern_size": 5, "overwrite": False, "dtype": "float32", "method": "leaf",
               "quantity": "relevance"}
    assert in_flags(message, options) == expected
