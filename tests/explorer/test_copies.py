"""Copies open from disk, in Chromium and in Firefox, without a network; so does the cell of a notebook."""
import base64
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from firefox import firefox
from served import LAYER, SAMPLES

import crp.explorer
from crp.cli import main
from crp.explorer import Explorer, export, export_page
from crp.explorer.copies import chosen_concepts
from crp.explorer.documents import NoteChange
from crp.explorer.joining import joined
from crp.explorer.widget import _module

pytestmark = pytest.mark.slow
WEB = Path(crp.explorer.__file__).parent / "web"
PLACES = {
    "model": "What has the model learned?", f"concepts?layer={LAYER}": f"Concepts of {LAYER}",
    f"concept?layer={LAYER}&concept=12": "concept 12", "samples": "Samples",
    f"patterns?layer={LAYER}&quantity=relevance": f"Patterns of {LAYER}", f"maps?layer={LAYER}": f"Maps of {LAYER}",
    f"neurons?layer={LAYER}": f"Neurons of {LAYER}",
}
WHAT_IS_THERE = """new Promise(done => { let turns = 0; const look = () => {
    const main = document.querySelector("main");
    if (turns++ > 200 || (main && main.querySelector("h1") && !main.querySelector("[aria-busy]")))
        done(main ? main.innerText : "nothing"); else setTimeout(look, 50);
}; setTimeout(look, 300); })"""


@pytest.fixture(scope="module")
def copy(with_model, tmp_path_factory):
    """A copy of 30 concepts, and what was told before it was written."""
    folder, told = tmp_path_factory.mktemp("copy") / "digits", []

    def tell(text):
        assert not folder.exists()
        told.append(text)

    files = export(with_model, folder, 30, 6, report=tell, verbose=False)
    return folder, files, told


@pytest.fixture
def page(browser):
    """A page from disk that may ask for files beside it alone, and complains of nothing."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    page, complaints = context.new_page(), []

    def complain(message):
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    def note(asked):
        if not asked.url.startswith(("file:", "data:", "blob:")):
            complaints.append(asked.url)

    page.on("console", complain)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", note)
    yield page
    context.close()
    assert not complaints


def settled(page):
    page.wait_for_selector("main h1")
    page.wait_for_selector("[aria-busy]", state="detached")


def test_its_size_is_told_before_it_is_written(copy):
    folder, files, told = copy
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert told == [f"30 concepts, {len(files)} files, {size / 2 ** 20:.1f} MiB"]
    assert files[0] == folder / "index.html" and size < 10 * 2 ** 20


@pytest.mark.parametrize("place", PLACES)
def test_every_view_opens_in_chromium(copy, page, place):
    page.goto(f"{(copy[0] / 'index.html').as_uri()}#{place}")
    settled(page)
    assert PLACES[place] in page.locator("h1").inner_text()
    assert "cannot be shown" not in page.locator("main").inner_text()


def test_one_walks_through_a_copy(copy, page):
    page.goto(f"{(copy[0] / 'index.html').as_uri()}#concepts?layer={LAYER}")
    settled(page)
    page.get_by_role("button", name="heatmap").click()
    settled(page)
    first = page.locator(".concept-row").first
    assert first.locator(".strip-pictures a").count() == 6
    first.locator("a.name").click()
    settled(page)
    assert page.get_by_text("Samples that show it").is_visible()
    assert page.locator(".tile-picture[style*='sheet-']").count() > 6
    page.get_by_role("link", name="sample").first.click()
    settled(page)
    assert page.get_by_role("img", name="heatmap for").count() == 1 or "static" in page.locator("main").inner_text()
    page.go_back()
    settled(page)
    assert page.locator("h1").inner_text().startswith("concept")


def test_it_opens_in_firefox(copy, tmp_path):
    name = shutil.which("firefox-esr") or shutil.which("firefox")
    if name is None and os.environ.get("CRP_BROWSERS") != "required":
        pytest.skip("there is no Firefox: apt-get install firefox-esr")
    with firefox(name, tmp_path) as look:
        for place, heading in PLACES.items():
            look("about:blank", "1")
            found = look(f"{(copy[0] / 'index.html').as_uri()}#{place}", WHAT_IS_THERE)
            assert heading in found and "cannot be shown" not in found


@pytest.mark.parametrize("subject, heading", [
    (("concept", 2, "relevance", 12), "concept 12"), (("sample", 2, "relevance", 5), "Sample 5"),
    (("pattern", 2, "relevance", 1), f"Patterns of {LAYER}"),
])
def test_a_page_is_one_file(with_model, tmp_path, page, subject, heading):
    files = export_page(with_model, tmp_path / "page.html", subject, report=lambda text: None)
    assert files == [tmp_path / "page.html"] and files == list(tmp_path.iterdir())
    page.goto(files[0].as_uri())
    settled(page)
    assert page.locator("h1").inner_text() == heading
    assert page.locator("img, .tile-picture[style*='data:'], .averages").count() > 0


def test_what_a_copy_does_not_hold_it_says(copy, page):
    page.goto(f"{(copy[0] / 'index.html').as_uri()}#sample?input=399")
    settled(page)
    assert "This copy is static, and does not hold this" in page.locator("main").inner_text()


def test_folders_that_hold_something_are_left_alone(with_model, copy, tmp_path):
    with pytest.raises(FileExistsError, match="holds something already"):
        export(with_model, copy[0], report=print, verbose=False)
    with pytest.raises(ValueError, match="no concept 99"):
        export_page(with_model, tmp_path / "x.html", ("concept", 2, "relevance", 99), report=print)
    assert not any(tmp_path.iterdir())
    (tmp_path / "there.html").write_text("mine")
    with pytest.raises(FileExistsError):
        export_page(with_model, tmp_path / "there.html", ("sample", 2, "relevance", 3), report=print)
    assert (tmp_path / "there.html").read_text() == "mine"


@pytest.mark.parametrize("most", [1, 2, 5, 30, 1000])
def test_as_many_concepts_as_are_asked_for(with_model, most):
    found = chosen_concepts(with_model, most)
    assert sum(map(len, found.values())) == min(most, 68)


def test_texts_are_data_in_a_page(store_alone, tmp_path, page):
    source = type(store_alone).of(store_alone.store.path)
    pin = {"view": "concept", "layer": 2, "quantity": "relevance", "number": 12}
    name = "</script><script>document.title = 'broken'</script><img src=x onerror=alert(1)>"
    source.notebook.change(NoteChange(on=pin, name=name))
    export_page(source, tmp_path / "page.html", ("concept", 2, "relevance", 12), report=lambda text: None)
    page.goto((tmp_path / "page.html").as_uri())
    settled(page)
    assert name in page.locator("h1").inner_text() and page.title() != "broken"
    assert page.locator("main img").count() == 0
    source.notebook.change(NoteChange(on=pin, name=""))


def test_the_command_writes_copies(store_alone, tmp_path, capsys):
    path = str(store_alone.store.path)
    main(["explore", path, "--export", str(tmp_path / "copy"), "--concepts", "4", "--references", "2"])
    assert (tmp_path / "copy" / "index.html").exists()
    assert "4 concepts" in capsys.readouterr().err
    main(["explore", path, "--export", str(tmp_path / "one.html"), "--concept", f"{LAYER}:3", "--json"])
    assert '"bytes":' in capsys.readouterr().out
    for wrong, reason in (
        (["--export", str(tmp_path / "b.html"), "--concept", "relu9:3"], "did you mean"),
        (["--export", str(tmp_path / "b.html"), "--concept", "3"], "LAYER"), (["--concept", f"{LAYER}:3"], "--export"),
    ):
        with pytest.raises(SystemExit):
            main(["explore", path, *wrong])
        assert reason in capsys.readouterr().err


@pytest.mark.parametrize("entry", ["embedded.js", "widget.js", "served.js"])
def test_modules_are_joined(entry):
    found = joined(entry)
    assert "import " not in found.split("const modules")[1].split("\n", 1)[0] and f'modules["{entry}"]' in found


def test_modules_take_from_each_other_what_is_there_and_leave_nothing_unused():
    sources = {path.name: path.read_text(encoding="utf-8") for path in WEB.glob("*.js")}
    given = {
        name: set(re.findall(r"^export (?:async )?(?:function|class|const) (\w+)", source, re.MULTILINE))
        for name, source in sources.items()
    }
    taken = {name: set[str]() for name in sources}
    for name, source in sources.items():
        for names, other in re.findall(r'^import \{([^}]*)\} from "\./([\w.]+)";$', source, re.MULTILINE):
            found = set(names.replace(" ", "").strip(",").split(","))
            taken[other] |= found
            assert found <= given[other], (name, found - given[other])
            assert not [word for word in found if len(re.findall(rf"\b{word}\b", source)) < 2], name
    taken["embedded.js"].add("embedded")
    taken["widget.js"].add("render")
    assert given == taken


CELL = """<!doctype html><meta charset="utf-8"><div id="cell"></div><script type="module">
{module}
const handlers = {{}};
const state = {{ place: {place!r}, height: 700 }};
window.model = {{
  get: (name) => state[name], set: (name, value) => {{ state[name] = value; }},
  save_changes: () => window.kernelSaves(JSON.stringify(state)),
  on: (name, act) => {{ handlers[name] = act; }}, off: () => {{}},
  send: async (message, _, buffers) => {{
    const body = btoa(String.fromCharCode(...new Uint8Array(buffers[0])));
    const [told, content] = await window.kernelAnswers(JSON.stringify(message), body);
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    handlers["msg:custom"](JSON.parse(told), [new DataView(bytes.buffer)]);
  }},
}};
crpRender({{ model: window.model, el: document.getElementById("cell") }});
</script><style>{css}</style>"""


def test_the_cell_of_a_notebook_shows_the_pages(digit_sweep, browser, tmp_path):
    explorer = Explorer(*digit_sweep, place=f"#concept?layer={LAYER}&concept=12")
    sent = {}
    explorer.send = lambda told, buffers: sent.__setitem__(told["id"], (told, buffers[0]))

    def answer(message, body):
        message = json.loads(message)
        explorer._answer_now(message, base64.b64decode(body))
        told, content = sent.pop(message["id"])
        return [json.dumps(told), base64.b64encode(content).decode()]

    def save(state):
        for name, value in json.loads(state).items():
            explorer.set_trait(name, value) if name in ("place", "_selection") else None

    module = _module().replace("export default", "const crpModule =") + "\nconst crpRender = crpModule.render;"
    cell = CELL.format(module=module, css=explorer._css, place=explorer.place)
    (tmp_path / "cell.html").write_text(cell, encoding="utf-8")
    page = browser.new_page()
    page.expose_function("kernelAnswers", answer)
    page.expose_function("kernelSaves", save)
    page.goto((tmp_path / "cell.html").as_uri())
    settled(page)
    assert page.locator("h1").inner_text() == "concept 12"
    assert explorer.selection["concept"] == 12 and explorer.selection["layer"] == LAYER
    page.get_by_role("link", name="Concepts", exact=True).click()
    page.locator(".concept-row a.name").first.click()
    settled(page)
    chosen = int(page.locator("h1").inner_text().removeprefix("concept "))
    assert explorer.selection["concept"] == chosen and f"concept={chosen}" in explorer.place
    assert page.url.endswith("cell.html")  # the notebook's own address is left alone
    page.close()
    explorer.close()


def test_a_store_alone_is_enough_for_a_cell(store_alone):
    explorer = Explorer(store_alone.store.path)
    answers = []
    explorer.send = lambda told, buffers: answers.append((told, buffers))
    explorer._answer_now({"id": 1, "path": "/api/stores", "method": "GET"}, b"")
    assert answers[0][0]["status"] == 200 and str(SAMPLES).encode() in answers[0][1][0]
    explorer.close()


