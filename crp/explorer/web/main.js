// The explorer: where one is, and the view that shows it.
import { count, fill, h, say, trouble } from "./dom.js";
import { conceptView } from "./view_concept.js";
import { conceptsView } from "./view_concepts.js";
import { mapsView } from "./view_maps.js";
import { modelView } from "./view_model.js";
import { neuronsView } from "./view_neurons.js";
import { patternsView } from "./view_patterns.js";
import { sampleView } from "./view_sample.js";
import { samplesView } from "./view_samples.js";
import { textView } from "./view_text.js";
import { link } from "./parts.js";
import { formatPlace, parsePlace } from "./place.js";

const VIEWS = {
  model: { name: "Model", draw: modelView },
  concepts: { name: "Concepts", draw: conceptsView },
  concept: { under: "concepts", draw: conceptView },
  samples: { name: "Samples", draw: samplesView },
  sample: { under: "samples", draw: sampleView },
  patterns: { name: "Patterns", draw: patternsView },
  maps: { name: "Maps", draw: mapsView },
  neurons: { name: "Neurons", draw: neuronsView },
  text: { name: "Text", draw: textView },
};
// What goes with one from view to view; all else belongs to the view it was chosen in.
const LASTING = ["store", "layer", "quantity"];

// Show the explorer in an element.
export async function start({ root, data, address, isStatic = false, copy = null, onSelect = () => {}, scroller = window }) {
  const jobs = h("div", { class: "jobs" });
  const bar = h("header", { class: "bar" });
  const main = h("main", { id: "explorer-main" });
  fill(root, h("a", { class: "skip", href: "#", onclick: (event) => {
    event.preventDefault();
    main.querySelector("h1")?.focus();
  } }, "Skip to the page"), bar, main, h("div", { class: "unseen", role: "status", "aria-live": "polite", "data-says": true }));
  let leave = [];
  let before = null;
  let turn = 0;

  async function show() {
    turn += 1;
    const own = turn;
    let stores;
    try {
      stores = (await data.json("/api/stores")).stores;
    } catch (error) {
      fill(main, h("h1", { tabindex: -1 }, "There is nothing to explore"), trouble(error));
      return;
    }
    if (own !== turn) return;
    leave.splice(0).forEach((act) => act());
    const place = parsePlace(address.read());
    const store = stores.find((found) => found.key === place.store) || stores[0];
    const ctx = context(stores, store, place);
    drawBar(ctx);
    const isElsewhere = before === null || before.view !== place.view || before.concept !== place.concept
      || before.input !== place.input || before.layer !== place.layer || before.store !== place.store;
    const focused = root.contains(document.activeElement) ? document.activeElement?.dataset?.keep : null;
    before = place;
    let page;
    try {
      page = place.store && store.key !== place.store ? missingStore(ctx) : await VIEWS[ctx.view].draw(ctx);
    } catch (error) {
      page = h("div", {}, h("h1", { tabindex: -1 }, "This cannot be shown"), trouble(error), h("p", {}, link(ctx, { view: "model" }, "To the model")));
    }
    if (own !== turn) return;
    fill(main, page);
    ctx.shown.forEach((act) => act());
    const title = main.querySelector("h1");
    if (scroller === window) document.title = `${title ? title.textContent : ""} · crp explorer`;
    if (isElsewhere) {
      if (scroller === window) window.scrollTo(0, 0);
      title?.setAttribute("tabindex", "-1");
      title?.focus({ preventScroll: true });
    } else if (focused) {
      [...root.querySelectorAll("[data-keep]")].find((element) => element.dataset.keep === focused)
        ?.focus({ preventScroll: true });
    }
    ctx.shown.forEach((act) => act());
    onSelect({ view: ctx.view, store: store.key, layer: store.layers[ctx.layer].name, quantity: ctx.quantity, ...selection(place) });
  }

  function context(stores, store, place) {
    const named = store.layers.findIndex((layer) => layer.name === place.layer);
    const layer = named >= 0 ? named : store.layers.length - 1;
    const view = VIEWS[place.view] ? place.view : "model";
    const shown = [];
    const ctx = {
      root, data, place, stores, store, layer, view, isStatic, copy, shown, scroller,
      quantity: place.quantity === "activation" ? "activation" : "relevance",
      base: `/api/${store.key}`,
      says: (text) => say(root, text),
      onLeave: (act) => leave.push(act),
      onShow: (act) => shown.push(act),
      redraw: show,
      changed(changes) {
        const told = { ...changes };
        if (typeof told.layer === "number") told.layer = store.layers[told.layer].name;
        const isSame = told.view === undefined || told.view === place.view;
        const kept = isSame ? place : Object.fromEntries(LASTING.map((name) => [name, place[name]]));
        return { ...kept, ...(isSame ? {} : { quantity: ctx.place.quantity }), ...told };
      },
      href: (changes) => formatPlace(ctx.changed(changes)),
      go(changes, { replace = false } = {}) {
        address.write(ctx.href(changes), replace);
        show();
      },
      // Put something into the address without drawing anew.
      note(changes) {
        Object.assign(place, changes);
        address.write(formatPlace(place), true);
      },
      className: (target) => store.classes.find((found) => found.target === target)?.name ?? String(target),
    };
    return ctx;
  }

  function drawBar(ctx) {
    const shownViews = Object.entries(VIEWS).filter(([key, view]) => view.name
      && (key !== "text" || ctx.store.kind === "texts"));
    const current = VIEWS[ctx.view].under || ctx.view;
    fill(bar, h("nav", { "aria-label": "views" }, shownViews.map(([key, view]) => link(
      ctx, { view: key }, { "aria-current": key === current ? "page" : undefined, "data-keep": `view ${key}` }, view.name,
    ))), h("div", { class: "where" }, jobs,
      ctx.stores.length > 1 && h("label", { class: "choice" }, h("span", {}, "store"), h("select", {
        "data-keep": "store", onchange: (event) => ctx.go({ view: "model", store: ctx.stores[event.target.selectedIndex].key, layer: "" }),
      }, ctx.stores.map((store) => h("option", { selected: store === ctx.store }, store.name)))),
      h("label", { class: "choice" }, h("span", {}, "layer"), h("select", {
        "data-keep": "layer", onchange: (event) => ctx.go({
          layer: event.target.selectedIndex, ...(ctx.view === "concept" ? { view: "concepts" } : {}),
        }),
      }, ctx.store.layers.map((layer, i) => h("option", { selected: i === ctx.layer }, layer.name))))));
  }

  if (!isStatic) watchJobs(data, jobs, () => parsePlace(address.read()).store);
  address.watch(show);
  await show();
}

function missingStore(ctx) {
  return h("div", {}, h("h1", { tabindex: -1 }, "That store is not here"),
    h("p", {}, "The address names a store that is not served, or that another sweep has replaced."),
    h("p", {}, link(ctx, { view: "model", store: "", layer: "" }, `Go to ${ctx.stores[0].name}`)));
}

function selection({ concept, input, pattern, samples, units }) {
  const numbers = (text) => (text ? text.split(",").map(Number) : []);
  return {
    concept: concept === undefined ? null : Number(concept), input: input ?? null,
    pattern: pattern === undefined ? null : Number(pattern), samples: numbers(samples), units: units ?? "",
  };
}

// How much work is going on, while there is some.
function watchJobs(data, host, storeKey) {
  const look = async () => {
    try {
      const { stores } = await data.json("/api/stores");
      const key = (stores.find((store) => store.key === storeKey()) || stores[0]).key;
      const store = stores.find((found) => found.key === key);
      if (store.has_model || host.childElementCount) {
        const answer = await data.ask(`/api/${key}/jobs`);
        const { jobs } = answer.status < 400 ? JSON.parse(new TextDecoder().decode(answer.bytes)) : { jobs: [] };
        const running = jobs.find((job) => job.state === "running");
        fill(host, jobs.length > 0 && [h("progress", { max: 1, value: running ? running.progress : 0, "aria-label": "work of the model" }),
          h("span", {}, count(jobs.length, "job"))]);
      }
    } catch {
      fill(host);
    }
    if (host.isConnected || !host.parentElement) setTimeout(look, document.hidden ? 10000 : 2000);
  };
  setTimeout(look, 1500);
}
