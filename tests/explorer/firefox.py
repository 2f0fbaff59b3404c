"""Debian's Firefox, driven through WebDriver BiDi: a page is opened, and asked for its text."""
import json
import re
import subprocess
from contextlib import contextmanager

from websockets.sync.client import connect


@contextmanager
def firefox(name, profile):
    """A function ``(address, script) -> value``: opens a page, and says what a script finds there."""
    process = subprocess.Popen(
        [name, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0"],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )
    try:
        line = next(line for line in process.stderr if "WebDriver BiDi listening" in line)
        with connect(re.search(r"ws://\S+", line)[0] + "/session", max_size=2 ** 24) as socket:
            number = 0

            def command(method, **params):
                nonlocal number
                number += 1
                socket.send(json.dumps({"id": number, "method": method, "params": params}))
                while True:
                    answer = json.loads(socket.recv(timeout=60))
                    if answer.get("id") == number:
                        assert answer["type"] == "success", answer
                        return answer["result"]

            command("session.new", capabilities={})
            context = command("browsingContext.getTree")["contexts"][0]["context"]

            def look(address, script):
                command("browsingContext.navigate", context=context, url=address, wait="complete")
                found = command(
                    "script.evaluate", expression=script, target={"context": context}, awaitPromise=True,
                )
                assert found["type"] == "success", found
                return found["result"].get("value")

            yield look
    finally:
        process.kill()
        process.wait()
