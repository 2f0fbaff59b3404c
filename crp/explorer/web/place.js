// Where in the explorer one is: a text that holds all of it, in the address of the page or in a notebook's cell.

// Read a text such as "concepts?layer=relu3&sort=share".
export function parsePlace(text) {
  const [view, query = ""] = text.replace(/^#/, "").split("?");
  const place = { view: decodeURIComponent(view) || "model" };
  for (const [name, value] of new URLSearchParams(query)) place[name] = value;
  return place;
}

// Write a place; what is empty is left out.
export function formatPlace(place) {
  const { view, ...rest } = place;
  const query = new URLSearchParams();
  for (const name of Object.keys(rest).sort()) {
    const value = rest[name];
    if (value !== undefined && value !== null && value !== "" && value !== false) query.set(name, String(value));
  }
  const told = query.toString();
  return `#${view}${told ? `?${told}` : ""}`;
}

// The address of the page.
export const address = {
  read: () => window.location.hash,
  write(text, replace) {
    if (replace) window.history.replaceState(null, "", text);
    else window.history.pushState(null, "", text);
  },
  watch(act) {
    window.addEventListener("popstate", act);
    window.addEventListener("hashchange", act);
  },
};
