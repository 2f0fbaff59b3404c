// The explorer as a server's page.
import { Data, server } from "./data.js";
import { h } from "./dom.js";
import { start } from "./main.js";
import { address } from "./place.js";

const root = document.getElementById("explorer");

// The token of a printed address is exchanged for a cookie, and taken out of the address.
async function begin() {
  const given = /^#token=([\w-]+)$/.exec(window.location.hash);
  if (given) {
    window.history.replaceState(null, "", window.location.pathname);
    await signIn(given[1]);
  }
  const data = new Data(server());
  const fault = await data.json("/api/stores").then(() => null, (error) => error);
  if (fault && fault.status === 401) askForToken();
  else start({ root, data, address, isStatic: false });
}

async function signIn(token) {
  await fetch("/api/session", {
    method: "POST", body: JSON.stringify({ token }), headers: { "content-type": "application/json" },
  });
}

function askForToken() {
  const field = h("input", { type: "password", autocomplete: "off", "aria-label": "token" });
  root.replaceChildren(h("main", { class: "login" }, h("h1", {}, "A token is needed"),
    h("p", {}, "crp explore printed an address that ends with #token=…; open that, or paste the token here."),
    field, " ", h("button", { type: "button", onclick: async () => {
      await signIn(field.value.trim().replace(/^.*#token=/, ""));
      begin();
    } }, "Open")));
}

begin();
