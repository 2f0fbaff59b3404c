"""What a person does in a browser, and what is shown then."""
import re
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

SIZE = {"width": 1280, "height": 900}


def watched(context, faults):
    """A page of a context that notes what must never happen: trouble, dialogues, and requests to others."""
    page = context.new_page()
    page.set_default_timeout(10_000)
    origins = set()

    def asked(request):
        found = urlsplit(request.url)
        if found.scheme in ("blob", "data"):
            return
        origins.add(f"{found.scheme}://{found.netloc}")
        if len(origins) > 1 or found.hostname != "127.0.0.1":
            faults.append(f"asked {request.url}")

    def alerted(dialog):
        faults.append(f"dialogue {dialog.message}")
        dialog.dismiss()

    page.on("console", lambda told: told.type in ("error", "warning") and faults.append(
        f"{told.type} {told.text} {told.location.get('url')} on {page.url}"
    ))
    page.on("pageerror", lambda error: faults.append(f"{error} on {page.url}"))
    page.on("request", asked)
    page.on("dialog", alerted)
    return page


def settle(page, patience=20):
    """Wait until nothing is at work, and what is shown stays as it is."""
    expect(page.locator("main h1")).to_be_visible()
    before, turns = None, 0
    while True:
        page.wait_for_timeout(60)
        is_busy = page.locator('[aria-busy="true"]').count() > 0
        now = None if is_busy else shown(page)
        if now is not None and now == before:
            return now
        before, turns = now, turns + 1
        assert turns < patience / .06, f"still at work: {page.url}"


def show(page, address, place):
    """Open a place of the explorer, and wait until all is there."""
    page.goto("about:blank")
    page.goto(address + place)
    return settle(page)


def shown(page):
    """What a person sees: texts, and the states of buttons and fields."""
    return {
        "text": page.locator("main").inner_text(), "buttons": page.locator("main button").evaluate_all(
            "found => found.map((one) => [one.textContent, one.getAttribute('aria-pressed'), one.disabled])"
        ), "fields": page.locator("select, input").evaluate_all(
            "found => found.map((one) => one.type === 'checkbox' ? one.checked : one.value)"
        ),
    }


def tab_to(page, element, key="Tab", most=250):
    """Press a key until an element has the focus."""
    for _ in range(most):
        page.keyboard.press(key)
        if element.evaluate("one => one === document.activeElement"):
            return
    pytest.fail(f"{key} does not lead to {element}")


def numbers(text):
    """The numbers in a text."""
    return [float(found) for found in re.findall(r"-?\d+(?:\.\d+)?", text)]


def part(page, title):
    """The part of a page under a heading."""
    return page.locator("section", has=page.get_by_role("heading", name=title, level=2))


def choose(page, label, option):
    """Choose an option by its name, of the field with a label, and wait until all is there."""
    page.locator("main").get_by_role("combobox", name=label, exact=True).select_option(label=option)
    return settle(page)


def press(page, name):
    """Press a button of the page, and wait until all is there."""
    page.locator("main").get_by_role("button", name=name, exact=True).click()
    return settle(page)


def written(page, label):
    """The field with a label, in which texts or numbers are written."""
    main = page.locator("main")
    return main.get_by_role("textbox", name=label, exact=True).or_(
        main.get_by_role("spinbutton", name=label, exact=True))


def write(page, label, text):
    """Write into the field with a label, and wait until all is there."""
    field = written(page, label)
    field.fill(text)
    field.press("Tab")
    return settle(page)


def painted(page, label):
    """The pixels of a heatmap."""
    return page.get_by_role("img", name=label).locator("canvas").evaluate("one => one.toDataURL()")
