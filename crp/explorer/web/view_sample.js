// A sample: what the model answers, why, and which concepts it takes for that; alone, beside another one, or uploaded.
import { bars, legend } from "./charts.js";
import { choice, count, fill, h, part, percent, soon, toggle, trouble } from "./dom.js";
import { conceptBars, conceptTitle, heatmap, link, needsModel, notebook, outputBars, QUANTITIES, sampleTiles, tokens, working } from "./parts.js";
import { Scatter } from "./scatter.js";

const PAGE = 240;
const COLOURS = [
  { key: "target", name: "label" }, { key: "prediction", name: "prediction" }, { key: "pattern", name: "pattern" },
  { key: "value", name: "concept" },
];
const PALETTE = Array.from({ length: 10 }, (_, i) => `var(--c${i})`);

// All samples: on a map, and in pages.
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
    part({ title: "Samples", wide: true }, h("p", { class: "muted" }, `${count(chosen.length, rows.shape[0] === ctx.store.samples ? "sample" : "row")}${chosen.length > PAGE ? `, ${first + 1} to ${first + shown.length}` : ""}${ctx.store.classes.length ? "; below each, its class" : ""}`),
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

// A button that begins work whose result the store keeps.
export function makeIt(ctx, task, label, told) {
  if (ctx.isStatic) return h("p", { class: "note" }, told, " This copy is static: open the store with crp explore to make it.");
  const host = h("div", {}, told && h("p", {}, told), h("button", { type: "button", "data-keep": `make ${task.kind}`, onclick: async (event) => {
    event.target.disabled = true;
    const progress = h("progress", { max: 1, "aria-label": label });
    let isWanted = true;
    const stop = h("button", { type: "button", onclick: () => { isWanted = false; } }, "Cancel");
    const waited = h("span", {});
    const began = Date.now();
    const line = h("p", { class: "working", role: "status" }, `${label} …`, progress, waited, stop);
    host.append(line);
    try {
      let job = await ctx.data.send("POST", `${ctx.base}/jobs`, task);
      const end = () => ctx.data.send("DELETE", `${ctx.base}/jobs/${job.job}`).catch(() => {});
      stop.addEventListener("click", end);
      if (!isWanted) await end();
      while (job.state === "waiting" || job.state === "running") {
        await new Promise((resolve) => setTimeout(resolve, 400));
        const answer = await ctx.data.ask(`${ctx.base}/jobs/${job.job}`);
        if (answer.status >= 400) throw new Error("It was cancelled.");
        job = JSON.parse(new TextDecoder().decode(answer.bytes));
        if (job.progress > 0) progress.value = job.progress;
        waited.textContent = job.state === "waiting" ? "waiting for other work" : `${Math.round((Date.now() - began) / 1000)} s`;
      }
      if (job.state !== "done") {
        await ctx.data.send("DELETE", `${ctx.base}/jobs/${job.job}`).catch(() => {});
        throw new Error(job.error || "It was cancelled.");
      }
      ctx.data.forget();
      if (host.isConnected) ctx.redraw();
    } catch (error) {
      line.remove();
      event.target.disabled = false;
      host.append(trouble(error));
    }
  } }, label));
  return host;
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

// A sample, or two side by side.
export async function sampleView(ctx) {
  const input = String(ctx.place.input ?? "0");
  const beside = ctx.place.beside;
  const isUpload = input.startsWith("u");
  return h("div", {},
    h("p", { class: "muted" }, link(ctx, { view: "samples" }, "← samples")),
    h("h1", {}, isUpload ? "An uploaded picture" : `Sample ${input}${beside ? ` and sample ${beside}` : ""}`),
    h("div", { class: "tools" }, toggle("quantity", QUANTITIES, ctx.quantity, (quantity) => ctx.go({ quantity })),
      h("label", { class: "choice" }, h("span", {}, "beside sample"), h("input", { type: "number", min: 0, size: 7, value: beside ?? "", "data-keep": "beside",
        onchange: (event) => ctx.go({ beside: event.target.value || undefined }) }))),
    !isUpload && notebook(ctx, { view: "sample", layer: 0, quantity: "relevance", number: Number(input) }),
    h("div", { class: beside ? "two" : "" }, await oneSample(ctx, input), beside && await oneSample(ctx, beside)));
}

async function oneSample(ctx, input) {
  if (ctx.store.kind === "texts") return textSample(ctx, Number(input));
  const { place, layer } = ctx;
  const isUpload = input.startsWith("u");
  const page = isUpload ? null : await ctx.data.json(`${ctx.base}/samples/${input}?quantity=${ctx.quantity}${ctx.isStatic ? "" : `&layer=${layer}`}`);
  const url = ctx.store.has_pictures ? ctx.data.picture(`${ctx.base}/inputs/${input}/picture`) : Promise.resolve(null);
  const told = page && h("p", {}, answerOf(ctx, page));
  const query = [place.explain !== undefined && `target=${place.explain}`, place.against !== undefined && `against=${place.against}`].filter(Boolean);
  const path = `${ctx.base}/inputs/${input}/explained`;
  const whole = path + (query.length ? `?${query.join("&")}` : "");
  const concept = place.concept === undefined ? null : Number(place.concept);
  const ofConcept = concept === null ? null : `${path}?${[...query.filter((ask) => ask.startsWith("target")), `layer=${layer}`, `concept=${concept}`].join("&")}`;
  const picture = soon(url, (found) => (found ? heatmap(ctx, { url: found, label: `sample ${input}` }) : h("p", { class: "note" }, "The store keeps no picture of it: pictures come with the dataset, or with crp explore SPEC --keep-pictures.")), { height: 200 });
  const known = page && page.layers.find((found) => found.layer === layer);
  const storedConcepts = known && part({ title: `Concepts of ${ctx.store.layers[layer].name}`, note: page.target >= 0 && ctx.quantity === "relevance"
    ? `Shares of the relevance for ${ctx.className(page.target)}, as the store has them.` : `Shares of the ${ctx.quantity}, as the store has them.` },
  conceptBars(ctx, bars, layer, known.concepts.slice(0, 12), { active: concept, onPick: (chosen) => ctx.go({ concept: chosen === concept ? undefined : chosen }, { replace: true }) }),
  concept !== null && h("p", {}, link(ctx, { view: "concept", concept, input: isUpload ? undefined : input }, `All about ${conceptTitle(concept, known.concepts.find((found) => found.concept === concept)?.name)}`)));
  return h("div", { class: "parts" },
    part("The sample", told, picture, assignment(ctx, input)),
    ctx.store.has_model || ctx.isStatic ? part({ title: "Why", note: place.against !== undefined ? `Red: for ${ctx.className(Number(place.explain))}; blue: for ${ctx.className(Number(place.against))}.` : "Red: for the answer; blue: against it." },
      working(ctx, (onProgress) => Promise.all([ctx.data.both(whole, onProgress), url]), ([{ document: found, numbers }, shown]) => h("div", {},
        contrastTools(ctx, found),
        heatmap(ctx, { url: shown, values: numbers, height: found.height, width: found.width, label: `heatmap for ${ctx.className(found.target)}` }),
        h("h3", {}, "Answers"), outputBars(bars, found.outputs, { target: found.target, onPick: (target) => ctx.go({ explain: target, against: undefined }, { replace: true }) }))))
      : part("Why", needsModel()),
    storedConcepts,
    ofConcept && ctx.store.has_model && part({ title: `Where ${conceptTitle(concept, "")} is`, note: "The heatmap on condition of this concept alone." },
      working(ctx, (onProgress) => Promise.all([ctx.data.both(ofConcept, onProgress), url]), ([{ document: found, numbers }, shown]) => heatmap(ctx, {
        url: shown, values: numbers, height: found.height, width: found.width, label: `heatmap of concept ${concept}`,
      }))),
    ctx.store.has_model && (isUpload || place.against !== undefined || !known) && part({ title: `Concepts of ${ctx.store.layers[layer].name} ${place.against === undefined ? "for the answer" : `for ${ctx.className(Number(place.explain))}, not ${ctx.className(Number(place.against))}`}`, note: "Shares of the relevance for what is explained above." },
      working(ctx, (onProgress) => ctx.data.both(whole, onProgress), ({ document: found }) => conceptBars(ctx, bars, layer, (found.layers.find((one) => one.layer === layer) || { concepts: [] }).concepts.slice(0, 12), {
        active: concept, onPick: (chosen) => ctx.go({ concept: chosen === concept ? undefined : chosen }, { replace: true }),
      }))),
    ctx.store.has_model && part({ title: "Concepts in a region", note: "Drag a region (or focus the picture: arrows move it, shift and arrows size it, Enter takes it)." }, regional(ctx, input, url, query, whole)));
}

// What a sample is, and what the model takes it for.
function answerOf(ctx, page) {
  const targets = page.targets.map((target) => ctx.className(target)).join(", ");
  const predicted = page.prediction >= 0 ? `Predicted: ${ctx.className(page.prediction)}` : "";
  if (!page.targets.length) return predicted && `${predicted}.`;
  if (!ctx.store.has_labels) return predicted ? `${predicted}, the class that was explained.` : `The class that was explained: ${targets}.`;
  const isWrong = predicted && !page.targets.includes(page.prediction);
  return [`Label: ${targets}.`, predicted && `${predicted}${isWrong ? ", which is wrong" : ""}.`].filter(Boolean).join(" ");
}

function contrastTools(ctx, found) {
  const options = found.outputs.map((output) => ({ key: output.target, name: output.name }));
  return h("div", { class: "tools" },
    choice("explain", options, found.target, (explain) => ctx.go({ explain, against: undefined }, { replace: true })),
    choice("and not", [{ key: "", name: "–" }, ...options.filter(({ key }) => key !== found.target)], found.against ?? "", (against) => ctx.go({ explain: found.target, against }, { replace: true })));
}

function assignment(ctx, input) {
  const quantity = ["activation", "relevance"].find((name) => ctx.store.layers[ctx.layer].patterns.includes(name));
  if (!quantity || !ctx.store.has_model) return null;
  return working(ctx, (onProgress) => ctx.data.later(`${ctx.base}/inputs/${input}/layers/${ctx.layer}/pattern?quantity=${quantity}`, onProgress), (found) => h("p", {},
    found.pattern < 0 ? `Belongs to no pattern of ${ctx.store.layers[ctx.layer].name}.`
      : ["Belongs to ", link(ctx, { view: "patterns", quantity, pattern: found.pattern }, `pattern ${found.pattern}`), ` of ${ctx.store.layers[ctx.layer].name} (${percent(found.probability)} sure).`]), { height: 30 });
}

// Concepts by what they hold within a region that is brushed.
function regional(ctx, input, url, query, whole) {
  const region = ctx.place.region ? ctx.place.region.split(",").map(Number) : null;
  const host = h("div", {});
  const box = soon(url, (shown) => heatmap(ctx, { url: shown, label: "mark a region", region, onBrush: (marked) => {
    ctx.note({ region: marked ? marked.map((value) => value.toFixed(3)).join(",") : undefined });
    rank(marked);
  } }), { height: 200 });
  const rank = (marked) => {
    if (!marked) {
      fill(host, h("p", { class: "muted" }, "No region is marked."));
      return;
    }
    fill(host, working(ctx, async (onProgress) => {
      const { document: found } = await ctx.data.both(whole, onProgress);
      const chosen = found.layers.find((one) => one.layer === ctx.layer).concepts;
      const ask = [`concepts=${chosen.map((one) => one.concept).join(",")}`, ...query].join("&");
      const { values } = await ctx.data.floatsLater(`${ctx.base}/inputs/${input}/layers/${ctx.layer}/heatmaps?${ask}`, onProgress);
      return { chosen, values, height: found.height, width: found.width };
    }, ({ chosen, values, height, width }) => conceptBars(ctx, bars, ctx.layer, inRegion(chosen, values, height, width, marked).slice(0, 10), { label: "concepts in the region" })));
  };
  rank(region);
  return h("div", { class: "two" }, box, host);
}

// What of each concept's heatmap lies in a region: of all that lies there.
export function inRegion(concepts, values, height, width, [left, top, right, bottom]) {
  const sums = concepts.map((_, i) => {
    let sum = 0;
    for (let y = Math.floor(top * height); y < Math.ceil(bottom * height); y += 1) {
      for (let x = Math.floor(left * width); x < Math.ceil(right * width); x += 1) sum += values[(i * height + y) * width + x];
    }
    return sum;
  });
  const total = sums.reduce((found, sum) => found + Math.abs(sum), 0) || 1;
  return concepts.map((found, i) => ({ ...found, share: sums[i] / total })).sort((a, b) => Math.abs(b.share) - Math.abs(a.share));
}

async function textSample(ctx, sample) {
  const position = ctx.place.position === undefined ? "" : `&position=${ctx.place.position}`;
  const page = await ctx.data.json(`${ctx.base}/samples/${sample}?quantity=${ctx.quantity}${position}${ctx.isStatic ? "" : `&layer=${ctx.layer}`}`);
  const known = page.layers.find((found) => found.layer === ctx.layer) || { concepts: [] };
  const concept = ctx.place.concept === undefined ? known.concepts[0]?.concept : Number(ctx.place.concept);
  const isByToken = ctx.store.of_positions;
  return h("div", { class: "parts" },
    part({ title: "The text", wide: true, note: isByToken && concept !== undefined ? `Colours: the ${ctx.quantity} of concept ${concept} at each token. Choose a token to see its concepts.` : "" },
      isByToken && concept !== undefined ? soon(ctx.data.floats(`${ctx.base}/texts/${sample}/layers/${ctx.layer}/values?concepts=${concept}&quantity=${ctx.quantity}`), ({ values }) => tokens(page.tokens, values, {
        picked: page.position, onPick: (chosen) => ctx.go({ position: chosen }, { replace: true }), label: `text ${sample}`,
      })) : tokens(page.tokens, null, { label: `text ${sample}` }),
      page.targets.length > 0 && h("p", {}, `Label: ${page.targets.map((target) => ctx.className(target)).join(", ")}`)),
    ctx.store.has_model && part({ title: "Why", note: "Red: tokens that speak for the answer; blue: against it." }, working(ctx,
      (onProgress) => ctx.data.both(`${ctx.base}/inputs/${sample}/explained${ctx.place.explain === undefined ? "" : `?target=${ctx.place.explain}`}`, onProgress),
      ({ document: found, numbers }) => h("div", {}, tokens(page.tokens, numbers, { label: `relevance of the tokens of text ${sample}` }),
        h("h3", {}, "Answers"), outputBars(bars, found.outputs, { target: found.target, onPick: (explain) => ctx.go({ explain }, { replace: true }) })))),
    part({ title: `Concepts of ${ctx.store.layers[ctx.layer].name}`, note: isByToken ? `at token ${page.position}` : "of the whole text" },
      conceptBars(ctx, bars, ctx.layer, known.concepts.slice(0, 12), { active: concept, onPick: (chosen) => ctx.go({ concept: chosen }, { replace: true }) }),
      concept !== undefined && h("p", {}, link(ctx, { view: "concept", concept }, `All about concept ${concept}`))));
}

