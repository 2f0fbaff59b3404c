// What several views are made of.
import { count, fill, h, number, percent, trouble } from "./dom.js";

export const QUANTITIES = [
  { key: "relevance", name: "relevance", title: "what concepts do for the answer" },
  { key: "activation", name: "activation", title: "how strongly concepts respond" },
];
const CELLS = 16;
const CHUNK = 96;

// A link within the explorer.
export function link(ctx, changes, ...children) {
  const options = children[0] && children[0].constructor === Object ? children.shift() : {};
  return h("a", {
    ...options, href: ctx.href(changes), onclick: (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
      event.preventDefault();
      ctx.go(changes);
    },
  }, ...children);
}

// What a concept is called: its name, and its number.
export function conceptTitle(concept, name) {
  return name ? `${name} (${concept})` : `concept ${concept}`;
}

// Small pictures of samples by their numbers: where in which file each is.
export async function samplePictures(ctx, samples, size = 64) {
  const found = new Map();
  const wanted = [...new Set(samples)].filter((sample) => sample >= 0);
  if (ctx.isStatic) return fromSheets(ctx, wanted, size);
  await Promise.all(Array.from({ length: Math.ceil(wanted.length / CHUNK) }, async (_, chunk) => {
    const part = wanted.slice(chunk * CHUNK, (chunk + 1) * CHUNK);
    const url = await ctx.data.picture(`${ctx.base}/pictures?samples=${part.join(",")}&size=${size}`);
    part.forEach((sample, i) => {
      found.set(sample, { url, x: (i % CELLS) * size, y: Math.floor(i / CELLS) * size, size,
        columns: Math.min(part.length, CELLS), rows: Math.ceil(part.length / CELLS) });
    });
  }));
  return found;
}

// Of a copy: pictures of all its samples stand in a few files.
function fromSheets(ctx, wanted, size) {
  const { samples, sheet, cell } = ctx.copy;
  const side = Math.sqrt(sheet);
  const place = new Map(samples.map((sample, i) => [sample, i]));
  const found = new Map();
  for (const sample of wanted) {
    if (!place.has(sample)) continue;
    const i = place.get(sample);
    const own = i % sheet;
    const inSheet = Math.min(sheet, samples.length - (i - own));
    found.set(sample, { url: ctx.data.ask.url(`data/sheet-${Math.floor(i / sheet)}.webp`), x: (own % side) * size, y: Math.floor(own / side) * size,
      size, columns: side, rows: Math.ceil(inSheet / side), cell });
  }
  return found;
}

// Samples as small pictures that lead to their pages.
export function sampleTiles(ctx, samples, { size = 64, captions = [], titles = [], changes = {}, marks = () => "" } = {}) {
  const tiles = samples.map((sample, i) => link(ctx, { view: "sample", input: sample, ...changes }, {
    class: `tile ${marks(sample, i)}`, "aria-label": `sample ${sample}${captions[i] ? `, ${captions[i]}` : ""}`,
    title: [`sample ${sample}`, titles[i] || captions[i]].filter(Boolean).join("\n"),
  }, h("span", { class: "tile-picture", style: { width: `${size}px`, height: `${size}px` } },
    !ctx.store.has_pictures && h("span", { class: "tile-number" }, sample)),
  captions[i] && h("span", { class: "tile-caption" }, captions[i])));
  if (ctx.store.has_pictures && ctx.store.kind === "pictures" && samples.length) {
    samplePictures(ctx, samples, size).then((found) => samples.forEach((sample, i) => {
      const cell = found.get(sample);
      if (cell) showCell(tiles[i].firstChild, cell);
    }), (error) => tiles[0].parentElement?.after(trouble(error)));
  } else if (ctx.store.kind === "texts") {
    tiles.forEach((tile, i) => fill(tile.firstChild, h("span", { class: "tile-number" }, samples[i])));
  }
  return h("div", { class: "tiles" }, tiles);
}

// Show a part of a file with many pictures.
export function showCell(element, { url, x, y, size, columns, rows }) {
  Object.assign(element.style, {
    backgroundImage: `url("${url}")`, backgroundPosition: `-${x}px -${y}px`,
    backgroundSize: `${columns * size}px ${rows * size}px`,
  });
}

// A heatmap over a picture: red for, blue against; brushing gives a region.
export function heatmap(ctx, { url, values, height, width, label, onBrush, region }) {
  const canvas = h("canvas", { width, height, class: "heat-canvas", "aria-hidden": "true" });
  if (values) paint(canvas, values, width, height);
  const box = h("div", { class: "heat", role: "img", "aria-label": label, tabindex: onBrush ? 0 : undefined },
    url && h("img", { src: url, alt: "", class: values ? "heat-under" : "" }), values && canvas);
  if (onBrush) brush(box, onBrush, region);
  return values && !largest(values) ? h("div", {}, box, h("p", { class: "note" }, "It does nothing here: the heatmap is zero everywhere.")) : box;
}

const largest = (values) => values.reduce((found, value) => Math.max(found, Math.abs(value) || 0), 0);

function paint(canvas, values, width, height) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const most = largest(values) || 1;
  values.forEach((value, i) => {
    const part = Math.abs(value) / most;
    image.data.set(value >= 0 ? [200, 20, 20, 235 * part] : [20, 60, 210, 235 * part], 4 * i);
  });
  context.putImageData(image, 0, 0);
}

// Mark a region of a box by dragging, or with the arrow keys (with shift its size).
function brush(box, onBrush, region) {
  const frame = h("span", { class: "brush" });
  box.append(frame);
  box.classList.add("brushable");
  let [left, top, right, bottom] = region || [0.25, 0.25, 0.75, 0.75];
  const draw = (visible) => {
    frame.hidden = !visible;
    Object.assign(frame.style, { left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * (right - left)}%`,
      height: `${100 * (bottom - top)}%` });
  };
  draw(Boolean(region));
  const at = (event) => {
    const rect = box.getBoundingClientRect();
    return [(event.clientX - rect.left) / rect.width, (event.clientY - rect.top) / rect.height]
      .map((value) => Math.min(Math.max(value, 0), 1));
  };
  box.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    box.focus();
    const [x0, y0] = at(event);
    const move = (moved) => {
      const [x1, y1] = at(moved);
      [left, right] = [Math.min(x0, x1), Math.max(x0, x1)];
      [top, bottom] = [Math.min(y0, y1), Math.max(y0, y1)];
      draw(true);
    };
    const end = () => {
      window.removeEventListener("pointermove", move);
      if (right - left > 0.01 && bottom - top > 0.01) onBrush([left, top, right, bottom]);
      else onBrush(null);
    };
    window.addEventListener("pointermove", move);
    window.addEventListener("pointerup", end, { once: true });
  });
  box.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-0.05, 0], ArrowRight: [0.05, 0], ArrowUp: [0, -0.05], ArrowDown: [0, 0.05] }[event.key];
    if (step) {
      event.preventDefault();
      const limit = (value) => Math.min(Math.max(value, 0), 1);
      if (!event.shiftKey) [left, top] = [limit(left + step[0]), limit(top + step[1])];
      [right, bottom] = [limit(Math.max(right + step[0], left + 0.05)), limit(Math.max(bottom + step[1], top + 0.05))];
      draw(true);
    }
    if (event.key === "Enter") onBrush([left, top, right, bottom]);
    if (event.key === "Escape") onBrush(null);
  });
}

// Something that the model works on: how far it is, and a button that ends it.
export function working(ctx, ask, draw, { height = 120, isOfModel = true } = {}) {
  if (isOfModel && !ctx.store.has_model && !ctx.isStatic) return needsModel();
  const bar = h("progress", { max: 1, "aria-label": "progress" });
  const told = h("span", {}, isOfModel ? "The model is at work …" : "This is being computed …");
  let job = null;
  let isWanted = true;
  const stop = h("button", { type: "button", hidden: true, onclick: () => {
    isWanted = false;
    if (job) ctx.data.send("DELETE", `${ctx.base}/jobs/${job.job}`).catch(() => {});
  } }, "Cancel");
  const host = h("div", { class: "working", "aria-busy": "true", style: { minHeight: `${height}px` } }, told, bar, stop);
  ask((found) => {
    job = found;
    stop.hidden = false;
    told.textContent = found.state === "waiting" ? `Waiting: ${found.what}` : `At work: ${found.what}`;
    if (found.progress > 0) bar.value = found.progress;
    return isWanted;
  }).then((found) => {
    host.replaceWith(draw(found));
  }, (error) => {
    host.replaceWith(h("div", {}, trouble(error), !ctx.isStatic && h("button", { type: "button", onclick: ctx.redraw }, "Try again")));
  });
  return host;
}

// Why something is not shown: there is no model.
export function needsModel() {
  return h("p", { class: "note" }, "Only with the model: whoever has it runs crp explore SPEC.");
}

// A list of which only what can be seen is drawn.
export function virtualList(ctx, { length, height, render, label }) {
  const host = h("div", { class: "virtual", role: "list", "aria-label": label, style: { height: `${length * height}px` } });
  const drawn = new Map();
  const update = () => {
    if (!host.isConnected) return;
    const top = -host.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(top / height) - 4);
    const last = Math.min(length, Math.ceil((top + window.innerHeight) / height) + 4);
    for (const [i, element] of drawn) {
      if ((i < first || i >= last) && !element.contains(document.activeElement)) {
        element.remove();
        drawn.delete(i);
      }
    }
    for (let i = first; i < last; i += 1) {
      if (drawn.has(i)) continue;
      const element = h("div", { class: "virtual-row", role: "listitem", "aria-setsize": length, "aria-posinset": i + 1,
        style: { top: `${i * height}px`, height: `${height}px` } }, render(i));
      drawn.set(i, element);
      const after = [...drawn.entries()].filter(([other]) => other > i).sort((a, b) => a[0] - b[0])[0];
      host.insertBefore(element, after ? after[1] : null);
    }
  };
  let waits = false;
  const soonUpdate = () => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => {
      waits = false;
      update();
    });
  };
  const scrolled = ctx.scroller;
  scrolled.addEventListener("scroll", soonUpdate, { passive: true });
  window.addEventListener("resize", soonUpdate);
  ctx.onLeave(() => {
    scrolled.removeEventListener("scroll", soonUpdate);
    window.removeEventListener("resize", soonUpdate);
  });
  ctx.onShow(update);
  return host;
}

// Some of all rows, which are samples unless a sample has several.
export const countRows = (ctx, many, all) => count(many, all === ctx.store.samples ? "sample" : "row");

// A pin, a name and a note on something.
export function notebook(ctx, on) {
  const same = (other) => ["view", "layer", "quantity", "number"].every((name) => other[name] === on[name]);
  const host = h("div", { class: "notebook" });
  const draw = (notes) => {
    const isPinned = notes.pins.some(same);
    const own = notes.notes.find((note) => same(note.on)) || { on, text: "", name: "" };
    const keep = async (changes) => {
      try {
        const kept = await ctx.data.send("PATCH", `${ctx.base}/notes`, { on, ...changes });
        ctx.data.forget(`${ctx.base}/`);
        draw(kept);
        ctx.says("kept");
      } catch (error) {
        host.append(trouble(error));
      }
    };
    fill(host,
      h("button", {
        type: "button", "aria-pressed": String(isPinned), "data-keep": "pin", onclick: () => keep({ is_pinned: !isPinned }),
      }, isPinned ? "Pinned" : "Pin"),
      on.view === "concept" && h("label", { class: "choice" }, h("span", {}, "name"), h("input", {
        value: own.name, maxlength: 200, size: 14, onchange: (event) => keep({ name: event.target.value }),
      })),
      h("label", { class: "choice grows" }, h("span", {}, "note"), h("input", {
        value: own.text, maxlength: 4000, onchange: (event) => keep({ text: event.target.value }),
      })));
  };
  if (ctx.isStatic) return host;
  ctx.data.json(`${ctx.base}/notes`).then(draw, (error) => fill(host, trouble(error)));
  return host;
}

// Concepts with their shares, as bars that lead to their pages.
export function conceptBars(ctx, bars, layer, concepts, { onPick, active, label } = {}) {
  if (!concepts.length) return h("p", { class: "muted" }, "No concept does anything here.");
  return bars(concepts.map((found) => ({
    name: conceptTitle(found.concept, found.name), key: found.concept, value: found.share, active: active === found.concept,
    title: `${conceptTitle(found.concept, found.name)}: ${percent(found.share)} of ${ctx.store.layers[layer].name}`,
  })), {
    label: label || `concepts of ${ctx.store.layers[layer].name}`, format: percent,
    onPick: (item) => (onPick || ((concept) => ctx.go({ view: "concept", layer, concept })))(item.key),
  });
}

// What a model answers, as bars.
export function outputBars(bars, outputs, { target, onPick, label = "what the model answers" } = {}) {
  const hasProbabilities = outputs.every((output) => output.probability !== null);
  return bars(outputs.map((output) => ({
    name: output.name, key: output.target, value: hasProbabilities ? output.probability : output.value,
    active: output.target === target, title: `${output.name}: ${number(output.value)}`,
  })), {
    label, format: hasProbabilities ? percent : number, max: hasProbabilities ? 1 : undefined,
    onPick: onPick && ((item) => onPick(item.key)),
  });
}

// Tokens with colours: red for, blue against.
export function tokens(texts, values, { most, onPick, picked, label = "text" } = {}) {
  const limit = most || (values ? values.reduce((found, value) => Math.max(found, Math.abs(value)), 0) : 0) || 1;
  return h("p", { class: "tokens", role: "group", "aria-label": label }, texts.map((token, i) => {
    const value = values ? values[i] : 0;
    const part = Math.min(Math.abs(value) / limit, 1);
    const attributes = {
      class: `token${picked === i ? " token-picked" : ""}`,
      title: values ? `${token}: ${number(value)}` : token,
      style: value ? { backgroundColor: `rgba(${value > 0 ? "200, 20, 20" : "20, 60, 210"}, ${0.6 * part})` } : {},
    };
    const shown = token.replace(/^(Ġ|▁)/, " ").replace(/Ċ/g, "↵");
    return onPick ? h("button", { type: "button", ...attributes, onclick: () => onPick(i) }, shown) : h("span", attributes, shown, " ");
  }));
}

// A page that holds a list of rows, in parts of a hundred.
export function table(columns, rows, { label, sort, onSort }) {
  return h("div", { class: "table-scroll", tabindex: 0, role: "region", "aria-label": label }, h("table", {},
    h("thead", {}, h("tr", {}, columns.map((column) => h("th", {
      scope: "col", "aria-sort": sort === column.key ? "descending" : undefined, title: column.title,
    }, onSort && column.sorts !== false
      ? h("button", { type: "button", onclick: () => onSort(column.key), "data-keep": `sort ${column.key}` }, column.name)
      : column.name)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, columns.map((column) => h("td", {}, column.cell(row))))))));
}
