// Elements, and how numbers are written.

const PROPERTIES = new Set(["value", "checked", "selected", "disabled", "hidden"]);

// An element; children are elements or texts, which are never read as HTML.
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else if (PROPERTIES.has(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat(4)) {
    if (child !== null && child !== undefined && child !== false && child !== "") element.append(child);
  }
}

// Put something in the place of all that is in an element.
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

// A share, such as 12.3%.
export function percent(share) {
  if (share === null || !Number.isFinite(share)) return "–";
  const value = 100 * share;
  const digits = Math.abs(value) >= 99.95 || value === 0 ? 0 : Math.abs(value) >= 0.095 ? 1 : 2;
  return `${value.toFixed(digits)}%`;
}

// A number, with three digits that count.
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(3)));
}

// Many things, counted. (The first toLocaleString of a page takes as long as all else that it runs.)
export function count(many, one, several = `${one}s`) {
  return `${String(many).replace(/\B(?=(\d{3})+$)/g, ",")} ${many === 1 ? one : several}`;
}

// What a screen reader shall say.
export function say(root, text) {
  const region = root.querySelector("[data-says]");
  if (region) region.textContent = text;
}

// Something that is drawn soon: what stands there until then, and what went wrong if it is not.
export function soon(promise, draw, { height = 0, what = "" } = {}) {
  const host = h("div", { class: "soon", "aria-busy": "true" }, h("p", { class: "muted" }, what || "…"));
  if (height) host.style.minHeight = `${height}px`;
  promise.then(
    (found) => {
      host.removeAttribute("aria-busy");
      host.style.minHeight = "";
      fill(host, draw(found));
    },
    (error) => {
      host.removeAttribute("aria-busy");
      fill(host, trouble(error));
    },
  );
  return host;
}

// Why something cannot be shown.
export function trouble(error) {
  return h("p", { class: error.status === 404 ? "note" : "trouble", role: "status" }, error.message || String(error));
}

// A titled part of a page.
export function part(title, ...children) {
  const { note, id, wide } = typeof title === "object" ? title : {};
  const name = typeof title === "object" ? title.title : title;
  return h("section", { class: wide ? "part wide" : "part", id }, h("h2", {}, name),
    note && h("p", { class: "muted" }, note), ...children);
}

// What words mean, for whoever asks.
export function meanings(title, terms) {
  return h("details", {}, h("summary", { class: "muted" }, title), h("dl", { class: "meanings" }, terms.map(({ name, meaning }) => [
    h("dt", {}, name), h("dd", {}, meaning)])));
}

// A choice among a few.
export function choice(label, options, chosen, onPick) {
  return h("label", { class: "choice" }, h("span", {}, label), h("select", {
    "data-keep": label, onchange: (event) => onPick(options[event.target.selectedIndex].key),
  }, options.map(({ key, name }) => h("option", { selected: String(key) === String(chosen) }, name))));
}

// Buttons of which one is pressed.
export function toggle(label, options, chosen, onPick) {
  return h("div", { class: "toggle", role: "group", "aria-label": label }, options.map(({ key, name, title }) =>
    h("button", {
      type: "button", "aria-pressed": key === chosen ? "true" : "false", title, "data-keep": `${label} ${key}`,
      onclick: () => onPick(key),
    }, name)));
}
