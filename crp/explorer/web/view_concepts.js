// The concepts of a layer: all of them, searched and sorted.
import { choice, count, h, meanings, number, percent, toggle, trouble } from "./dom.js";
import { conceptTitle, link, QUANTITIES, samplePictures, showCell, virtualList } from "./parts.js";

const CHUNK = 8;
const KINDS = [
  { key: "plain", name: "whole", title: "the samples as they are" },
  { key: "heatmap", name: "heatmap", title: "where the concept is relevant" },
  { key: "opaque", name: "lit", title: "the sample, lit where the concept is" },
  { key: "crop", name: "crop", title: "what the concept's strongest neuron sees" },
];
const FACTS = {
  maximum: (value) => `max ${number(value)}`, zeros: (value) => `zero at ${percent(value)}`, clarity: (value) => `clarity ${number(value)}`,
  pattern: (value) => value >= 0 && `pattern ${value}`, "trust: effect": (value) => `effect ${number(value)}`,
};

// A grid of concepts with their references.
export async function conceptsView(ctx) {
  const { place, layer, quantity } = ctx;
  const start = `${ctx.base}/layers/${layer}`;
  const target = place.target === undefined || ctx.isStatic ? "" : place.target;
  const [page, columns, inClass] = await Promise.all([
    ctx.data.json(`${start}?quantity=${quantity}`), ctx.data.floats(`${start}/columns?quantity=${quantity}`),
    target === "" ? null : ctx.data.floats(`${start}/shares?quantity=${quantity}&target=${target}`),
  ]);
  const width = ctx.store.layers[layer].concepts;
  const column = Object.fromEntries(page.columns.map(({ name }, i) => [name, columns.values.subarray(i * width, (i + 1) * width)]));
  if (inClass) column["in the class"] = inClass.values;
  const names = new Map();
  for (const found of page.names) if (!names.has(found.concept)) names.set(found.concept, found.name);
  const options = {
    kind: KINDS.some(({ key }) => key === place.kind) ? place.kind : "plain", sort: place.sort || (inClass ? "in the class" : "share"),
    search: (place.search || "").toLowerCase(), target,
    ...stripSize(ctx),
  };
  const order = ordered(width, column, names, options, place.only);
  const kinds = ctx.store.kind === "texts" ? [] : KINDS.filter(({ key }) => key === "plain" || ctx.store.has_model || key === options.kind);
  return h("div", {},
    h("h1", {}, `Concepts of ${ctx.store.layers[layer].name}`),
    h("p", { class: "muted" }, "Each row is a concept, with the samples at which it holds the largest shares of the layer. "
      + (quantity === "relevance" ? "Relevance tells what it does for the answers." : "Activation tells how strongly it responds.")),
    h("div", { class: "tools" },
      toggle("quantity", QUANTITIES, quantity, (chosen) => ctx.go({ quantity: chosen })),
      kinds.length > 1 && toggle("pictures", kinds, options.kind, (kind) => ctx.go({ kind })),
      choice("sort by", [...(inClass ? [{ key: "in the class", name: `share of ${ctx.className(Number(target))}` }] : []), ...page.columns.map(({ name }) => ({ key: name, name })), { key: "id", name: "number" }, { key: "name", name: "name" }],
        options.sort, (sort) => ctx.go({ sort })),
      !ctx.isStatic && choice("samples of", [{ key: "", name: "all classes" }, ...ctx.store.classes.map((found) => ({ key: found.target, name: found.name }))],
        options.target, (chosen) => ctx.go({ target: chosen, sort: "", only: "" })),
      h("label", { class: "choice" }, h("span", {}, "search"), h("input", {
        type: "search", value: place.search || "", placeholder: "name, number or class", "data-keep": "search", size: 22,
        oninput: debounced((event) => ctx.go({ search: event.target.value }, { replace: true })),
      })),
      choice("show", [{ key: "", name: "all" }, { key: "named", name: "with a name" }, { key: "alive", name: "not dead" }, ...(target === "" ? [] : [{ key: "class", name: "whose first class this is" }])],
        place.only || "", (only) => ctx.go({ only }))),
    meanings("What the numbers mean", page.columns),
    h("p", { class: "muted", role: "status" }, `${count(order.length, "concept")} of ${width}`),
    order.length ? conceptList(ctx, order, column, names, options, Object.fromEntries(page.columns.map(({ name, meaning }) => [name, meaning])))
      : h("p", { class: "note" }, "No concept is like that. ", link(ctx, { search: "", only: "" }, "Show all")));

  function ordered(length, values, named, { sort, search, target }, only) {
    const classOf = (concept) => ctx.className(values.class ? values.class[concept] : -1).toLowerCase();
    const isWanted = (concept) => (!search || String(concept) === search || (named.get(concept) || "").toLowerCase().includes(search) || classOf(concept) === search)
      && (only !== "named" || named.has(concept)) && (only !== "alive" || values.share[concept] > 0)
      && (only !== "class" || target === "" || values.class[concept] === Number(target));
    const all = ctx.isStatic ? ctx.copy.concepts[layer] || [] : Array.from({ length }, (_, concept) => concept);
    const ids = all.filter(isWanted);
    if (sort === "id") return ids;
    if (sort === "name") return ids.sort((a, b) => (named.get(a) || "\uffff").localeCompare(named.get(b) || "\uffff") || a - b);
    const by = values[sort] || values.share;
    const last = (value) => (Number.isNaN(value) ? -Infinity : value);
    return ids.sort((a, b) => last(by[b]) - last(by[a]) || a - b);
  }
}

function conceptList(ctx, order, column, names, options, meanings) {
  const isNarrow = window.innerWidth < 640;
  const metered = options.sort === "in the class" ? column["in the class"] : column.share;
  const most = metered.reduce((found, value) => Math.max(found, value || 0), 0) || 1;
  return virtualList(ctx, {
    length: order.length, height: isNarrow ? 150 : ctx.store.kind === "texts" ? 128 : 104, label: "concepts",
    render(i) {
      const concept = order[i];
      const title = conceptTitle(concept, names.get(concept));
      const facts = Object.entries({ class: (value) => value >= 0 && `class ${ctx.className(value)}`, ...FACTS }).map(([name, format]) => {
        const told = column[name] && Number.isFinite(column[name][concept]) && format(column[name][concept]);
        return told && h("span", { title: meanings[name] }, told);
      });
      const by = column[options.sort];
      const sorted = by && options.sort !== "share" && Number.isFinite(by[concept]) && `${options.sort}: ${options.sort === "in the class" ? percent(by[concept]) : number(by[concept])}`;
      return h("div", { class: "concept-row" }, h("div", {},
        link(ctx, { view: "concept", concept }, { class: "name" }, title),
        h("div", { class: "meter", title: meanings.share }, h("i", { style: { width: `${100 * Math.max(0, metered[concept] / most)}%` } })),
        h("div", { class: "facts" }, h("b", { title: meanings.share }, `share ${percent(column.share[concept])}`), sorted && h("b", { title: meanings[options.sort] }, sorted), facts)),
      column.share[concept] === 0 ? h("p", { class: "muted" }, "Zero at all samples.")
        : ctx.store.kind === "texts" ? snippetsOf(ctx, order, i, options) : stripOf(ctx, order, i, options));
    },
  });
}

// How many references a strip shows, and how large.
export function stripSize(ctx) {
  if (ctx.isStatic) return { k: ctx.copy.references, size: ctx.copy.size };
  return window.innerWidth < 640 ? { k: 4, size: 64 } : { k: 8, size: 80 };
}

// Concepts whose pictures come in one file with those of a concept.
function together(ctx, order, i) {
  return ctx.isStatic ? [order[i]] : order.slice(Math.floor(i / CHUNK) * CHUNK, Math.floor(i / CHUNK) * CHUNK + CHUNK);
}

// The references of a concept: one part of the picture of a few concepts.
export function stripOf(ctx, order, i, { kind, k, size, target }) {
  const chunk = together(ctx, order, i);
  const ask = `concepts=${chunk.join(",")}&quantity=${ctx.quantity}&k=${k}${target === "" ? "" : `&target=${target}`}`;
  const start = `${ctx.base}/layers/${ctx.layer}`;
  const row = chunk.indexOf(order[i]);
  const host = h("div", { class: "strip-pictures" });
  const samples = ctx.isStatic ? ctx.data.json(`${start}/concepts/${order[i]}?quantity=${ctx.quantity}`).then((page) => page.references[0].samples.slice(0, k))
    : ctx.data.integers(`${start}/references?${ask}`).then(({ values, shape }) => Array.from(values.subarray(row * shape[1], (row + 1) * shape[1])));
  const isShown = kind !== "plain" || ctx.store.has_pictures;
  const sprite = isShown && !(ctx.isStatic && kind === "plain") ? ctx.data.picture(`${start}/sprite?${ask}&kind=${kind}&size=${size}`) : null;
  const linked = samples.then((found) => {
    const cells = found.filter((sample) => sample >= 0);
    host.replaceChildren(...cells.map((sample, place) => link(ctx, { view: "sample", input: sample }, {
      "aria-label": `sample ${sample}, number ${place + 1} of concept ${order[i]}`, title: `sample ${sample}`,
      style: { width: `${size + 4}px`, height: `${size + 4}px` },
    }, !ctx.store.has_pictures && String(sample))));
    return cells;
  });
  Promise.all([linked, sprite]).then(([cells, url]) => {
    if (!isShown) return null;
    if (!sprite) return samplePictures(ctx, cells, size).then((found) => cells.forEach((sample, place) => found.has(sample) && showCell(host.children[place], found.get(sample))));
    return cells.forEach((_, place) => Object.assign(host.children[place].style, {
      backgroundImage: `url("${url}")`, backgroundPosition: `-${place * size}px -${row * size}px`,
      backgroundSize: `${k * size}px auto`, backgroundOrigin: "padding-box",
    }));
  }).catch((error) => host.append(trouble(error)));
  return host;
}

function snippetsOf(ctx, order, i, { target }) {
  const host = h("div", { class: "snippets" });
  if (target !== "") host.append(h("p", { class: "muted" }, "of all classes"));
  const chunk = together(ctx, order, i);
  ctx.data.json(`${ctx.base}/layers/${ctx.layer}/snippets?concepts=${chunk.join(",")}&quantity=${ctx.quantity}&k=4`).then(
    (found) => host.append(...found.concepts[chunk.indexOf(order[i])].map((snippet) => snippetLine(ctx, snippet))),
    (error) => host.append(trouble(error)),
  );
  return host;
}

// A token in its context, which leads to its text.
export function snippetLine(ctx, snippet) {
  const shown = (token) => token.replace(/^(Ġ|▁)/, "");
  return link(ctx, { view: "sample", input: snippet.sample, position: snippet.position }, { class: "snippet", title: `sample ${snippet.sample}, token ${snippet.position}: ${number(snippet.value)}` },
    snippet.tokens.slice(0, snippet.at).map(shown).join(" "), " ", h("mark", {}, shown(snippet.tokens[snippet.at])), " ",
    snippet.tokens.slice(snippet.at + 1).map(shown).join(" "));
}

function debounced(act, pause = 250) {
  let timer = 0;
  return (event) => {
    clearTimeout(timer);
    timer = setTimeout(act, pause, event);
  };
}
