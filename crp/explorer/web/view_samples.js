// All samples: on a map, and in pages.
import { legend } from "./charts.js";
import { choice, count, fill, h, part, soon, toggle, trouble } from "./dom.js";
import { makeIt } from "./making.js";
import { countRows, link, QUANTITIES, sampleTiles } from "./parts.js";
import { Scatter } from "./scatter.js";

const PAGE = 240;
const COLOURS = [
  { key: "target", name: "label" }, { key: "prediction", name: "prediction" }, { key: "pattern", name: "pattern" },
  { key: "value", name: "concept" },
];
const PALETTE = Array.from({ length: 10 }, (_, i) => `var(--c${i})`);

// The page of all samples.
export async function samplesView(ctx) {
  if (ctx.store.keep === "top") {
    return h("div", {}, h("h1", {}, "Samples"), h("p", { class: "note" }, "This store was swept with --keep top: it holds the strongest samples "
      + "of each concept alone. Open them from the concepts."), upload(ctx));
  }
  const quantity = ctx.place.quantity === "relevance" ? "relevance" : "activation";
  const rows = await ctx.data.integers(`${ctx.base}/rows?quantity=${quantity}`);
  const wanted = { target: ctx.place.target ?? "", correct: ctx.place.correct ?? "" };
  const chosen = [];
  for (let row = 0; row < rows.shape[0]; row += 1) {
    const [, target, , prediction] = rows.values.subarray(4 * row, 4 * row + 4);
    if ((wanted.target === "" || target === Number(wanted.target)) && (wanted.correct === "" || (target === prediction) === (wanted.correct === "yes"))) chosen.push(row);
  }
  const first = Number(ctx.place.first || 0);
  const shown = chosen.slice(first, first + PAGE);
  const sampleOf = (row) => rows.values[4 * row];
  return h("div", {},
    h("h1", {}, "Samples"),
    upload(ctx),
    h("div", { class: "tools" }, toggle("quantity", QUANTITIES, quantity, (key) => ctx.go({ quantity: key })),
      choice("label", [{ key: "", name: "all" }, ...ctx.store.classes.map((found) => ({ key: found.target, name: found.name }))], wanted.target, (target) => ctx.go({ target, first: "" })),
      choice("the prediction is", [{ key: "", name: "right or wrong" }, { key: "yes", name: "right" }, { key: "no", name: "wrong" }], wanted.correct, (correct) => ctx.go({ correct, first: "" })),
      h("label", { class: "choice" }, h("span", {}, "sample number"), h("input", { type: "number", min: 0, size: 8, "data-keep": "number",
        onchange: (event) => ctx.go({ view: "sample", input: event.target.value }) }))),
    part({ title: "A map of all samples", wide: true, note: `Samples lie side by side if the ${quantity} of ${ctx.store.layers[ctx.layer].name} is alike. `
      + "Drag to move, scroll to zoom, shift-drag to select; keys: arrows, + and −, 0, Enter." }, map(ctx, quantity, rows, chosen)),
    part({ title: "Samples", wide: true }, h("p", { class: "muted" }, `${countRows(ctx, chosen.length, rows.shape[0])}${chosen.length > PAGE ? `, ${first + 1} to ${first + shown.length}` : ""}${ctx.store.classes.length ? "; below each, its class" : ""}`),
      sampleTiles(ctx, shown.map(sampleOf), {
        size: 64, captions: shown.map((row) => ctx.className(rows.values[4 * row + 1])),
        marks: (sample, i) => (rows.values[4 * shown[i] + 3] >= 0 && rows.values[4 * shown[i] + 3] !== rows.values[4 * shown[i] + 1] ? "wrong" : ""),
      }),
      chosen.length > PAGE && h("div", { class: "tools" },
        h("button", { type: "button", disabled: first === 0, "data-keep": "before", onclick: () => ctx.go({ first: Math.max(0, first - PAGE) || "" }) }, "before"),
        h("button", { type: "button", disabled: first + PAGE >= chosen.length, "data-keep": "next", onclick: () => ctx.go({ first: first + PAGE }) }, "next"))));
}

// All samples as points.
function map(ctx, quantity, rows, chosen) {
  const start = `${ctx.base}/layers/${ctx.layer}`;
  const hasPatterns = ctx.store.layers[ctx.layer].patterns.includes(quantity);
  const offered = COLOURS.filter(({ key }) => (key !== "value" || ctx.place.concept !== undefined) && (key !== "pattern" || hasPatterns));
  const colour = offered.some(({ key }) => key === ctx.place.colour) ? ctx.place.colour : "target";
  const host = h("div", { class: "scatter-host" });
  const told = h("p", { class: "muted", role: "status" });
  const selected = h("div", {});
  const draw = ({ values }) => {
    const scatter = new Scatter(host, {
      points: values, label: "map of all samples", onPick: (row, event) => {
        if (event.shiftKey) return;
        ctx.go({ view: "sample", input: rows.values[4 * row] });
      },
      onHover: (row) => { told.textContent = row === null ? "" : nameOf(row); },
      onSelect: (indices) => {
        scatter.highlight(indices);
        const samples = [...new Set(Array.from(indices, (row) => rows.values[4 * row]))].slice(0, 120);
        ctx.note({ samples: samples.join(",") || undefined });
        showSelected(samples);
      },
      onView: (view) => ctx.note({ at: `${view.x.toPrecision(5)},${view.y.toPrecision(5)},${view.scale.toPrecision(4)}` }),
      names: nameOf, thumbnails: (indices) => thumbnails(ctx, rows, indices),
    });
    ctx.onLeave(() => scatter.destroy());
    if (ctx.place.at) {
      const [x, y, scale] = ctx.place.at.split(",").map(Number);
      scatter.setView({ x, y, scale });
    }
    colours(ctx, colour, quantity, rows).then((codes) => scatter.colour(codes, PALETTE), (error) => told.replaceChildren(trouble(error)));
    if (chosen.length < rows.shape[0]) scatter.highlight(Int32Array.from(chosen));
    if (ctx.place.samples) showSelected(ctx.place.samples.split(",").map(Number));
    return h("div", {}, host, ["target", "prediction"].includes(colour) && classColours(ctx), told, selected);
  };
  const nameOf = (row) => {
    const [sample, target, , prediction] = rows.values.subarray(4 * row, 4 * row + 4);
    return `sample ${sample}: ${target >= 0 ? ctx.className(target) : "no label"}${prediction >= 0 ? `, predicted ${ctx.className(prediction)}` : ""}`;
  };
  const showSelected = (samples) => fill(selected, samples.length > 0 && h("p", {}, `${count(samples.length, "sample")} selected. `,
    link(ctx, { view: "patterns", samples: samples.join(",") }, "Show all patterns that hold them")), sampleTiles(ctx, samples.slice(0, 60), { size: 48 }));
  return h("div", {}, h("div", { class: "tools" }, toggle("colour", offered, colour, (key) => ctx.go({ colour: key }))),
    soon(ctx.data.floats(`${start}/points?quantity=${quantity}`), (found) => (found.values.length ? draw(found) : makeIt(ctx, { kind: "projection", layer: ctx.layer, quantity }, "Lay out all samples", "The store keeps no map of all samples by this layer yet."))));
}

// Which colour of the map stands for which class.
function classColours(ctx) {
  const shown = ctx.store.classes.slice(0, PALETTE.length);
  return h("div", {}, legend(shown.map((found) => ({ name: found.name, colour: PALETTE[found.target % PALETTE.length] }))),
    ctx.store.classes.length > shown.length && h("p", { class: "muted" }, `and ${ctx.store.classes.length - shown.length} classes more, which take the same colours in turn`));
}

async function colours(ctx, colour, quantity, rows) {
  const codes = new Int32Array(rows.shape[0]).fill(-1);
  if (colour === "pattern") {
    const found = await ctx.data.floats(`${ctx.base}/layers/${ctx.layer}/patterns/rows?quantity=${quantity}`);
    return codes.map((_, row) => found.values[row]);
  }
  if (colour === "value") {
    const { values } = await ctx.data.floats(`${ctx.base}/layers/${ctx.layer}/concepts/${ctx.place.concept}/values?quantity=${quantity}`);
    const most = values.reduce((found, value) => Math.max(found, Math.abs(value)), 0) || 1;
    return codes.map((_, row) => (Math.abs(values[row]) > most / 3 ? 3 : Math.abs(values[row]) > most / 10 ? 1 : -1));
  }
  const field = colour === "prediction" ? 3 : 1;
  return codes.map((_, row) => rows.values[4 * row + field]);
}

async function thumbnails(ctx, rows, indices) {
  const found = new Map();
  if (!ctx.store.has_pictures || ctx.store.kind !== "pictures") return found;
  const samples = Array.from(indices, (row) => rows.values[4 * row]);
  const size = 48;
  for (let first = 0; first < samples.length; first += 96) {
    const part_ = samples.slice(first, first + 96);
    const url = await ctx.data.picture(`${ctx.base}/pictures?samples=${part_.join(",")}&size=${size}`);
    const image = new Image();
    image.src = url;
    await image.decode();
    part_.forEach((_, i) => found.set(indices[first + i], { source: image, sx: (i % 16) * size, sy: Math.floor(i / 16) * size, sw: size, sh: size }));
  }
  return found;
}

function upload(ctx) {
  if (!ctx.store.has_model || ctx.store.kind !== "pictures" || ctx.isStatic) return null;
  const said = h("span", { role: "status" });
  return h("p", {}, h("label", { class: "choice" }, h("span", {}, "explain a picture of your own"), h("input", {
    type: "file", accept: "image/*", "data-keep": "upload", onchange: async (event) => {
      const file = event.target.files[0];
      if (!file) return;
      try {
        const found = await ctx.data.send("POST", `${ctx.base}/uploads`, await file.arrayBuffer());
        ctx.go({ view: "sample", input: `u${found.upload}` });
      } catch (error) {
        fill(said, trouble(error));
      }
    },
  })), said);
}
