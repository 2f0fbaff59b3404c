"""Who is answered, what browsers may do with answers, and what is refused."""
import io
import json
import re
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, Phase, given, settings
from PIL import Image
from served import ask_for, digits, serving
from small_sweeps import sweep, visualization

import crp.explorer
from crp.explorer.concept_pages import neighbours
from crp.explorer.documents import NoteChange
from crp.explorer.live.answered import read_answer
from crp.explorer.safety import POLICY, is_loopback
from crp.explorer.server import create_app, specification
from crp.explorer.source import Source
from crp.explorer.uploads import decode
from crp.explorer.worker import Worker

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("small") / "store")


@pytest.fixture(scope="module")
def served(store):
    with serving([Source.of(store)]) as address:
        yield address


def request(address, path="api/stores", method="GET", body=None, **headers):
    """Status, headers and content."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    asked = urllib.request.Request(address + path, body, headers, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost@evil.example", "[::1"])
def test_other_names_of_this_machine_are_refused(served, host):
    assert request(served, Host=host)[0] == 421
    assert request(served, "", Host=host)[0] == 421


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1234", "[::1]:80", "LOCALHOST"])
def test_own_names_are_answered(served, host):
    assert request(served, Host=host)[0] == 200


def test_other_pages_are_refused(served):
    assert request(served, Origin="https://evil.example")[0] == 403
    assert request(served, Origin="null")[0] == 403
    assert request(served, Origin="http://[")[0] == 403
    assert request(served, Sec_Fetch_Site="cross-site")[0] == 403
    assert request(served, Origin=served.rstrip("/"))[0] == 200


@pytest.mark.parametrize("path", ["", "main.js", "api/stores", "api/nothing", "nothing"])
def test_every_answer_has_a_policy(served, path):
    headers = request(served, path)[1]
    assert headers["Content-Security-Policy"] == POLICY and headers["X-Content-Type-Options"] == "nosniff"
    assert "unsafe" not in POLICY and "'none'" in POLICY


@pytest.mark.parametrize("path", [
    "../pyproject.toml", "%2e%2e/server.py", "..%2fserver.py", "web/../../server.py", "/etc/passwd", "openapi.json",
    "api/../server.py", "docs",
])
def test_no_other_files_are_served(served, path):
    assert request(served, path)[0] == 404


def test_other_addresses_need_a_token(store):
    with serving([Source.of(store)], token="secret-token") as address:
        assert request(address, "")[0] == 200  # the page that asks for it
        assert request(address)[0] == 401
        assert request(address, Authorization="Bearer secret-tokem")[0] == 401
        assert request(address, Authorization="Bearer é")[0] == 401
        assert request(address, Authorization="Bearer secret-token", Host="other.example")[0] == 200
        body = json.dumps({"token": "secret-token"}).encode()
        status, headers, _ = request(address, "api/session", "POST", body, Content_Type="application/json")
        cookie = headers["Set-Cookie"]
        assert status == 204 and "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
        assert request(address, Cookie=cookie.split(";")[0])[0] == 200
        assert request(address, "api/session", "POST", b'{"token": "no"}', Content_Type="application/json")[0] == 401


def test_loopback():
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "192.168.0.1", "::", "example.org", "", "127.0.0.2")))


def test_only_samples_of_the_store_are_shown(store):
    source = Source.of(store)
    ask, base = ask_for([source]), f"/api/{source.key}"
    assert ask(f"{base}/samples/12").status == 200
    for sample in (13, 10 ** 9, -1):
        assert ask(f"{base}/samples/{sample}").status in (404, 422)
        assert ask(f"{base}/pictures?samples={sample}").status in (404, 422)


@pytest.mark.parametrize("path, status", [
    ("layers/9", 404), ("layers/0/concepts/99", 404), ("layers/x", 422), ("layers/0?quantity=both", 422),
    ("layers/0/references?concepts=1,,2", 422), ("layers/0/references?concepts=" + ",".join("1" * 65), 422),
    ("layers/0/sprite?concepts=1&size=7000", 422), ("layers/0/sprite?concepts=1&kind=heatmap", 404), ("nothing", 404),
    ("inputs/0/manipulated?units=0:1:set:nan", 422), ("inputs/0/manipulated?units=0:1:set:1", 404),
    ("layers/0/patterns/0/average", 404), ("jobs/" + "0" * 32, 404), ("response-map?layers=0,7", 404),
])
def test_arguments_that_make_no_sense_are_refused_in_words(store, path, status):
    source = Source.of(store)
    answer = ask_for([source])(f"/api/{source.key}/{path}")
    assert answer.status == status
    assert len(json.loads(answer.content).get("error", json.loads(answer.content).get("detail"))) > 5


def test_names_are_text_and_kept_in_the_store(store):
    source = Source.of(store)
    ask, path = ask_for([source]), f"/api/{source.key}/notes"
    pin = {"view": "concept", "layer": 0, "quantity": "relevance", "number": 2}
    said = {"text": "<script>alert(1)</script>", "name": "</script><b>x"}
    notes = {"pins": [pin], "notes": [{"on": pin, **said}]}
    assert ask(path, "PATCH", json.dumps({"on": pin, "is_pinned": True, **said}).encode()).status == 200
    again = Source.of(store.path)
    found = ask_for([again])(path)
    assert json.loads(found.content) == notes and found.type.startswith("application/json")
    assert again.name(0, 2) == "</script><b>x"
    others = {"on": {**pin, "number": -1}}, {"on": pin, "more": 1}, {"on": pin, "name": "x" * 201}, {"text": "x"}
    for wrong in (*others, []):
        assert ask(path, "PATCH", json.dumps(wrong).encode()).status == 422
    assert json.loads(ask(path).content) == notes


def picture(size=(20, 12), kind="PNG", mode="RGB", **options):
    content = io.BytesIO()
    Image.new(mode, size, 120 if mode in ("L", "I;16") else None).save(content, kind, **options)
    return content.getvalue()


@pytest.fixture(scope="module")
def uploading(tmp_path_factory):
    path = tmp_path_factory.mktemp("upload") / "store"
    sweep(path)
    from zennit.composites import EpsilonPlusFlat

    source = Source.of(visualization(path), EpsilonPlusFlat())
    return ask_for([source]), f"/api/{source.key}", source


def test_pictures_are_taken_in_the_form_of_the_samples(uploading):
    ask, base, _ = uploading
    for content in (
        picture(), picture(kind="JPEG"), picture(mode="L"), picture(mode="I;16"), picture(kind="GIF", mode="L"),
        picture(kind="WEBP"), picture(kind="JPEG", mode="CMYK"),
    ):
        answer = ask(f"{base}/uploads", "POST", content)
        assert answer.status == 201, answer.content
        found = json.loads(answer.content)
        assert (found["height"], found["width"]) == (6, 6)
        assert ask(f"{base}/inputs/u{found['upload']}/explained").status == 200
        assert ask(f"{base}/inputs/u{found['upload']}/picture").type == "image/webp"


@pytest.mark.parametrize("content, reason", [
    (b"", b"no picture"), (b"GIF89a", b"no picture"), (picture()[:40], b"no picture"),
    (b"<svg xmlns='x'/>", b"no picture"), (picture((9000, 9000), mode="L"), b"pixels"),
    (b"x" * (2 ** 23 + 1), b"bytes"),
])
def test_other_files_are_refused(uploading, content, reason):
    ask, base, _ = uploading
    answer = ask(f"{base}/uploads", "POST", content)
    assert answer.status == (413 if reason in (b"pixels", b"bytes") else 422) and reason in answer.content


def test_deep_and_transparent_pictures_keep_their_values():
    values = np.linspace(0, 65535, 40).astype(np.uint16).reshape(4, 10)
    content = io.BytesIO()
    Image.fromarray(values).save(content, "PNG")
    np.testing.assert_allclose(np.asarray(decode(content.getvalue(), "L")), values / 257, atol=.51)
    content = io.BytesIO()
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(content, "PNG")
    assert (np.asarray(decode(content.getvalue(), "RGB")) == 255).all()


def test_more_than_is_taken_is_refused(served, store):
    key = store.identity()[:16]
    for path, size in (("api/session", 2 ** 11), (f"api/{key}/notes", 2 ** 16 + 1), (f"api/{key}/jobs", 2 ** 15)):
        method = "PATCH" if path.endswith("notes") else "POST"
        assert request(served, path, method, b"[" * size, Content_Type="application/json")[0] in (404, 413)
    assert request(served, f"api/{key}/notes", "PATCH", b"[" * (2 ** 16 + 1), Content_Type="application/json")[0] == 413


def test_notes_that_could_not_be_read_again_are_refused(tmp_path):
    source = Source.of(sweep(tmp_path / "store").path)
    ask, path = ask_for([source]), f"/api/{source.key}/notes"

    def write(number):
        change = {"on": {"view": "concept", "number": number}, "text": "世" * 4096}
        return ask(path, "PATCH", json.dumps(change, ensure_ascii=False).encode()).status

    assert [write(number) for number in range(123)] == [200] * 122 + [422]
    assert len(json.loads(ask_for([Source.of(source.store.path)])(path).content)["notes"]) == 122


def test_the_same_sweep_is_served_once(store, tmp_path):
    shutil.copytree(store.path, tmp_path / "copy")
    with pytest.raises(ValueError, match="same sweep"):
        create_app([Source.of(store.path), Source.of(tmp_path / "copy")])


def test_two_who_write_at_once_take_nothing_from_each_other(tmp_path):
    path = sweep(tmp_path / "store").path
    one, other = Source.of(path), Source.of(path)
    on = [NoteChange(on={"view": "concept", "number": number}, name=f"n{number}") for number in range(3)]
    one.notebook.read(), other.notebook.read()
    one.notebook.change(on[0])
    other.notebook.change(on[1])
    found = one.notebook.change(NoteChange(on=on[2].on, is_pinned=True))
    assert [(note.on.number, note.name) for note in found.notes] == [(0, "n0"), (1, "n1")]
    assert [pin.number for pin in found.pins] == [2]
    assert one.notebook.change(NoteChange(on=on[0].on, name="")).notes == found.notes[1:]
    assert one.notebook.change(NoteChange(on=on[2].on, is_pinned=False)).pins == []


def test_a_model_that_fails_is_told_of_and_tried_again(uploading, monkeypatch):
    source = uploading[2]
    ask, base, model = uploading[0], uploading[1], source.fv.attribution.model
    for error in (RuntimeError("out of memory"), TimeoutError("too slow"), SystemExit(3)):
        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(model, "forward", fail)
        answer = ask(f"{base}/inputs/3/explained?target=1")
        assert answer.status == 503 and type(error).__name__ in json.loads(answer.content)["error"]
        monkeypatch.undo()
    assert ask(f"{base}/inputs/3/explained?target=1").status == 200


def test_names_are_those_of_now(uploading):
    ask, base, source = uploading
    path = f"{base}/inputs/4/explained"
    document, _ = read_answer(ask(path).content)
    concept = document["layers"][0]["concepts"][0]["concept"]
    on = {"view": "concept", "layer": 0, "quantity": "relevance", "number": concept}
    assert ask(f"{base}/notes", "PATCH", json.dumps({"on": on, "name": "stripes"}).encode()).status == 200
    assert read_answer(ask(path).content)[0]["layers"][0]["concepts"][0]["name"] == "stripes"


def test_what_was_kept_and_is_damaged_is_made_again(tmp_path):
    store = sweep(tmp_path / "store")

    def columns():
        source = Source.of(store.path)
        return ask_for([source])(f"/api/{source.key}/layers/0/columns")

    expected = columns().content
    for damage in (b"", b"text", lambda content: content[:-9], lambda content: content[:40] + b"x" + content[41:]):
        for file in (store.path / "explorer").iterdir():
            file.write_bytes(damage(file.read_bytes()) if callable(damage) else damage)
        found = columns()
        assert found.status == 200 and found.content == expected


def test_a_store_that_is_deleted_leaves_the_others(tmp_path):
    stores = [sweep(tmp_path / "a"), sweep(tmp_path / "b", batch_size=3)]
    ask = ask_for([Source.of(store.path) for store in stores])
    assert len(json.loads(ask("/api/stores").content)["stores"]) == 2
    shutil.rmtree(tmp_path / "a")
    assert [store["name"] for store in json.loads(ask("/api/stores").content)["stores"]] == ["b"]


def test_constant_concepts_are_like_none(tmp_path):
    class Constant(torch.nn.Module):
        def forward(self, images):
            maps = torch.cat([images.flatten(1)[:, :3], torch.full((len(images), 2), .237, dtype=images.dtype)], 1)
            return maps * (1 + 0 * images.sum())

    model = torch.nn.Sequential(OrderedDict(
        [("conv", Constant()), ("fc", torch.nn.Linear(5, 4)), ("out", torch.nn.Linear(4, 3))]
    )).double().eval()
    source = Source.of(sweep(tmp_path / "store", model=model).path)
    found = neighbours(source, 0, 3)
    assert found.by_activation == [] and found.elsewhere == []
    assert all(other.concept < 3 for other in neighbours(source, 0, 0).by_activation)


def test_many_who_say_nothing_keep_nobody_from_being_answered(served):
    host, port = served.removeprefix("http://").rstrip("/").split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(100)]
    for connection in silent[::2]:
        connection.sendall(b"GET /api/stores HTTP/1.1\r\nHost: loc")
    begin = time.monotonic()
    assert request(served)[0] == 200 and time.monotonic() - begin < 5
    for connection in silent:
        connection.close()
    assert request(served)[0] == 200


def test_a_store_that_is_replaced_is_not_mixed_with_the_new_one(tmp_path):
    store = sweep(tmp_path / "store")
    source = Source.of(store.path)
    ask = ask_for([source])
    before = json.loads(ask("/api/stores").content)["stores"][0]["key"]
    sweep(tmp_path / "store", overwrite=True, batch_size=3)
    after = json.loads(ask("/api/stores").content)["stores"][0]["key"]
    assert after != before
    assert ask(f"/api/{before}/layers/0").status == 404 and ask(f"/api/{after}/layers/0").status == 200


def test_work_goes_on_one_by_one_the_newest_first_and_can_be_cancelled():
    worker, order, may_go = Worker(), [], threading.Event()

    def work(name):
        def compute(progress):
            may_go.wait(10)
            for _ in range(3):
                progress(.5)
                time.sleep(.001)
            order.append(name)
        return compute

    first = worker.submit("a", "a", work("a"))
    while first.state != "running":
        time.sleep(.001)
    jobs = {name: worker.submit(name, name, work(name)) for name in "bcd"}
    assert worker.submit("b", "again", work("b")) is jobs["b"]
    worker.cancel("c")
    may_go.set()
    for name in "bd":
        jobs[name].future.result(10)
    assert order == ["a", "b", "d"] and jobs["c"].state == "cancelled"
    assert worker.submit("c", "again", work("c")).future.result(10) is None
    worker.close()


def test_work_that_runs_is_cancelled_at_its_next_step_and_may_fail_and_be_tried_again():
    worker, started = Worker(), threading.Event()

    def endless(progress):
        started.set()
        while True:
            progress(.1)
            time.sleep(.001)

    job = worker.submit("x", "x", endless)
    started.wait(10)
    worker.cancel("x")
    with pytest.raises(Exception, match="cancelled"):
        job.future.result(10)

    def failing(progress):
        raise RuntimeError("out of luck")

    job = worker.submit("y", "y", failing)
    with pytest.raises(RuntimeError):
        job.future.result(10)
    assert worker.submit("y", "y", failing) is job and "out of luck" in job.document().error
    worker.cancel("y")
    assert worker.submit("y", "y", lambda progress: 3).future.result(10) == 3
    worker.close()


def test_many_may_ask_at_once(store, served):
    key = store.identity()[:16]
    paths = [f"api/{key}/layers/{i % 2}/concepts/{i % 4}" for i in range(64)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda path: request(served, path), paths))
    assert {status for status, _, _ in found} == {200}
    assert len({content for _, _, content in found}) == 4


def test_answers_that_browsers_have_are_not_sent_again(store, served):
    key = store.identity()[:16]
    status, headers, content = request(served, f"api/{key}/layers/0/concepts/1/values")
    assert status == 200 and "immutable" in headers["Cache-Control"] and content
    status, _, content = request(served, f"api/{key}/layers/0/concepts/1/values", If_None_Match=headers["ETag"])
    assert status == 304 and content == b""


def test_links_in_the_folder_of_a_store_are_not_followed(tmp_path):
    store, outside = sweep(tmp_path / "store"), tmp_path / "outside"
    outside.mkdir()
    (store.path / "explorer").symlink_to(outside)
    source = Source.of(store.path)
    assert ask_for([source])(f"/api/{source.key}/layers/0/columns").status == 200
    assert not any(outside.iterdir())


@pytest.mark.slow
def test_the_specification_is_kept_by_all_answers(tmp_path):
    source = Source.of(*digits(tmp_path / "store"))
    schema = schemathesis.openapi.from_dict(specification())
    schema.app = create_app([source])
    checked = 0
    for operation in schema.get_all_operations():
        @settings(
            max_examples=12, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=[*HealthCheck],
        )
        @given(operation.ok().as_strategy())
        def keeps_it(case):
            if "store" in case.path_parameters:
                case.path_parameters["store"] = source.key
            case.call_and_validate(base_url="http://localhost", excluded_checks=[
                schemathesis.checks.CHECKS.get_one("positive_data_acceptance"),  # ids that are none are refused
            ])

        keeps_it()
        checked += 1
    assert checked > 30


def test_the_specification_that_is_kept_is_that_of_the_server():
    kept = json.loads((Path(crp.explorer.__file__).parent / "openapi.json").read_text(encoding="utf-8"))
    assert kept == specification(), "python docs/write_specification.py writes it anew"


def test_what_the_page_names_is_served_and_nothing_else(served):
    named = re.findall(r'(?:href|src)="([^"]+)"', request(served, "")[2].decode())
    assert len(named) == 3
    for name in named:
        status, headers, content = request(served, name)
        assert status == 200 and content
        assert request(served, name, If_None_Match=headers["ETag"])[0] == 304
    for name in ("index.html", "main.js", "style.css", "explorer.js/", "server.py"):
        assert request(served, name)[0] == 404
