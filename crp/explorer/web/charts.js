// Small charts in HTML and SVG. Every text goes in as a text node or an attribute value, never as markup.

const SVG = "http://www.w3.org/2000/svg";
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
export const categorical = (index) => `var(--c${index % 10}, var(--accent, #2a6fdb))`;

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function paint(element, property, colour) {
  element.style[property] = colour;
  return element;
}

function short(value) {
  if (!isNumber(value)) return "–";
  if (value !== 0 && (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-3)) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

function clip(text, pixels) {
  const room = Math.max(2, Math.floor(pixels / 6.2));
  return text.length > room ? `${text.slice(0, room - 1)}…` : text;
}

function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (!isNumber(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return null;
  if (low < high) return [low, high];
  const margin = Math.abs(low) * 0.1 || 1;
  return [low - margin, high + margin];
}

function scale([low, high], from, to) {
  return (value) => from + ((value - low) / (high - low)) * (to - from);
}

function ticks([low, high], count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough) ?? rough;
  const found = [];
  const last = Math.min(Math.floor(high / step + 1e-9), Math.ceil(low / step) + 50);
  for (let index = Math.ceil(low / step - 1e-9); index <= last; index++) {
    found.push(Number((index * step).toPrecision(12)));
  }
  return found;
}

function isAct(event) {
  return event.key === "Enter" || event.key === " ";
}

function clickable(element, name, act) {
  fill(element, { role: "button", tabindex: 0, "aria-label": name }, []);
  element.classList.add("chart-clickable");
  element.addEventListener("click", act);
  element.addEventListener("keydown", (event) => {
    if (!isAct(event)) return;
    event.preventDefault();
    act(event);
  });
  return element;
}

// One tab stop for a whole grid of cells; the arrow keys go from cell to cell.
function rove(cells, columns) {
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
  cells.forEach((cell, index) => {
    cell.setAttribute("tabindex", index ? -1 : 0);
    cell.addEventListener("focus", () => {
      for (const other of cells) if (other !== cell) other.setAttribute("tabindex", -1);
      cell.setAttribute("tabindex", 0);
    });
    cell.addEventListener("keydown", (event) => {
      const next = cells[index + steps[event.key]];
      if (!(event.key in steps)) return;
      event.preventDefault();
      next?.focus();
    });
  });
}

function frame(kind, role, label, ...children) {
  return html("div", { class: `chart ${kind}`, role, "aria-label": label ?? "chart" }, ...children);
}

function nothing(label) {
  return frame("chart-nothing", "img", `${label ?? "chart"}: nothing to show`,
    html("div", { class: "chart-empty" }, "nothing to show"));
}

// Calls draw(width) now and whenever the width of the element changes.
function relayout(element, draw) {
  let last = 600;
  draw(last);
  const observer = new ResizeObserver(([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (width > 0 && width !== last) draw((last = width));
  });
  observer.observe(element);
}

// An SVG that is laid out anew for each width, so that its text keeps its size.
function plot(draw) {
  const holder = html("div", { class: "chart-plot" });
  const picture = svg("svg");
  holder.append(picture);
  const redraw = (width) => {
    holder.lastWidth = width;
    const { marks, height, wide = width } = draw(width);
    fill(picture, { width: wide, height, viewBox: `0 0 ${wide} ${height}` }, []);
    picture.replaceChildren(...marks);
  };
  holder.redraw = () => redraw(holder.lastWidth);
  relayout(holder, redraw);
  return holder;
}

function text(x, y, words, anchor = "middle", kind = "") {
  return svg("text", { x, y, "text-anchor": anchor, class: kind }, words);
}

function line(x1, y1, x2, y2, kind) {
  return svg("line", { x1, y1, x2, y2, class: kind });
}

function bottomAxis(domain, at, left, right, top, bottom, format, grid = true) {
  const marks = [line(left, bottom, right, bottom, "chart-axis")];
  const spread = 7 * Math.max(...ticks(domain, 5).map((tick) => format(tick).length), 3) + 14;
  for (const tick of ticks(domain, Math.max(1, Math.min(7, Math.floor((right - left) / spread))))) {
    const x = at(tick);
    if (grid) marks.push(line(x, top, x, bottom, "chart-grid"));
    marks.push(line(x, bottom, x, bottom + 4, "chart-axis"));
    const half = 3.3 * format(tick).length;
    marks.push(text(Math.min(x, right + 11 - half), bottom + 15, format(tick), "middle", "chart-muted"));
  }
  return marks;
}

function leftAxis(domain, at, left, right, format) {
  return ticks(domain, 4).flatMap((tick) => [
    line(left, at(tick), right, at(tick), "chart-grid"),
    text(left - 5, at(tick) + 4, format(tick), "end", "chart-muted"),
  ]);
}

// A row of colour swatches with names; with onToggle each entry is a switch.
export function legend(entries, onToggle) {
  const list = html("ul", { class: "chart-legend" });
  for (const [index, entry] of entries.entries()) {
    const swatch = html("i", { class: entry.dashed ? "chart-dashed" : null, "aria-hidden": true });
    paint(swatch, entry.dashed ? "color" : "backgroundColor", entry.colour ?? categorical(index));
    const item = html("li", {}, swatch, html("span", {}, String(entry.name)));
    if (onToggle) {
      let shown = true;
      clickable(item, `show or hide ${entry.name}`, () => {
        shown = !shown;
        item.setAttribute("aria-pressed", shown);
        item.classList.toggle("chart-off", !shown);
        onToggle(index, shown);
      });
      item.setAttribute("aria-pressed", true);
    }
    list.append(item);
  }
  if (onToggle) list.setAttribute("role", "group");
  return list;
}

function barPart(kind, from, to) {
  const part = html("div", { class: kind });
  part.style.left = `${Math.min(from, to) * 100}%`;
  part.style.width = `${Math.abs(to - from) * 100}%`;
  return part;
}

function barRange(items, max) {
  const all = items.flatMap((item) => [item.value, item.total]).filter(isNumber);
  const low = Math.min(0, ...all);
  const high = Math.max(0, ...all);
  if (isNumber(max) && max > 0) return [low < 0 ? -max : 0, max];
  return low === high ? [0, 1] : [low, high];
}

function barRow(item, at, format, onPick, signed) {
  const shown = isNumber(item.value) ? format(item.value) : "–";
  const track = html("div", { class: "chart-track", "aria-hidden": true });
  if (isNumber(item.total)) track.append(barPart("chart-total", at(0), at(item.total)));
  if (isNumber(item.value)) {
    const side = item.value < 0 ? "chart-below" : signed ? "chart-above" : "";
    track.append(barPart(`chart-value ${side}`, at(0), at(item.value)));
  }
  const zero = html("div", { class: "chart-zero" });
  zero.style.left = `${at(0) * 100}%`;
  track.append(zero);
  const total = isNumber(item.total) ? ` of ${format(item.total)}` : "";
  const words = `${item.name}: ${shown}${total}`;
  const row = html("div", { class: "chart-bar", title: item.title ?? words, "data-key": item.key },
    html("div", { class: "chart-bar-name" }, item.picture, html("span", {}, String(item.name))),
    track, html("div", { class: "chart-bar-value" }, shown));
  row.classList.toggle("chart-active", Boolean(item.active));
  if (!onPick) return row;
  clickable(row, words, (event) => onPick(item, event));
  if (item.active !== undefined) row.setAttribute("aria-pressed", Boolean(item.active));
  return row;
}

// Horizontal bars, with an optional grey total behind each value; red and blue as soon as one is negative.
export function bars(items, { label, format = (value) => String(value), onPick, max } = {}) {
  if (!items?.length) return nothing(label);
  const range = barRange(items, max);
  const at = (value) => Math.min(1, Math.max(0, scale(range, 0, 1)(value)));
  const longest = Math.max(...items.map((item) => (isNumber(item.value) ? format(item.value).length : 1)));
  const signed = items.some((item) => item.value < 0);
  const rows = items.map((item) => barRow(item, at, format, onPick, signed));
  const chart = frame("chart-bars", "group", label, ...rows);
  chart.style.setProperty("--chart-value-width", `${Math.min(14, Math.max(3, longest + 0.5))}ch`);
  return chart;
}

function histogramMarks(marks, domain, at, bottom, width) {
  return marks.filter((mark) => isNumber(mark.value)).flatMap((mark, index) => {
    const x = at(Math.min(domain[1], Math.max(domain[0], mark.value)));
    const right = x > width / 2;
    const room = right ? x - 6 : width - x - 6;
    const name = clip(String(mark.name), room);
    const words = text(x + (right ? -5 : 5), 14 + index * 14, name, right ? "end" : "start", "chart-halo");
    words.append(svg("title", {}, `${mark.name}: ${short(mark.value)}`));
    return [line(x, 6 + index * 14, x, bottom, "chart-mark"), words];
  });
}

// A histogram of counts between edges, with named vertical marks.
export function histogram({ edges = [], counts = [], zeros, marks = [], label, format = short } = {}) {
  const domain = extent(edges);
  const highest = Math.max(0, ...Array.from(counts).filter(isNumber));
  const told = isNumber(zeros) && zeros > 0 ? `${short(zeros * 100)}% of the values are exactly zero` : null;
  const note = told ? html("div", { class: "chart-note" }, told) : null;
  if (!domain || !highest) {
    const bare = nothing(label);
    if (note) bare.append(note);
    return bare;
  }
  const picture = plot((width) => {
    const [left, right, top, bottom] = [42, width - 12, 10 + marks.length * 14, 150 + marks.length * 14];
    const x = scale(domain, left, right);
    const y = scale([0, highest], bottom, top);
    const drawn = [...leftAxis([0, highest], y, left, right, short)];
    Array.from(counts).forEach((count, index) => {
      const [from, to] = [edges[index], edges[index + 1]];
      if (!isNumber(count) || !isNumber(from) || !isNumber(to) || count <= 0) return;
      const wide = Math.max(1, x(to) - x(from) - 1);
      const size = { x: x(from), y: y(count), width: wide, height: bottom - y(count) };
      drawn.push(svg("rect", { ...size, class: "chart-svg-accent" },
        svg("title", {}, `${format(from)} to ${format(to)}: ${count}`)));
    });
    drawn.push(...bottomAxis(domain, x, left, right, top, bottom, format, false));
    drawn.push(...histogramMarks(marks, domain, x, bottom, width));
    return { marks: drawn, height: bottom + 22 };
  });
  return frame("chart-histogram", "img", told ? `${label ?? "histogram"}; ${told}` : label, picture, note);
}

const BOX_PARTS = ["lower", "q1", "median", "q3", "upper", "mean"];

function boxWords(row, box, format) {
  const numbers = BOX_PARTS.map((part) => `${part} ${isNumber(box[part]) ? format(box[part]) : "–"}`);
  return `${row.name}${box.name ? `, ${box.name}` : ""}: ${numbers.join(", ")}`;
}

function boxMarks(row, box, colour, x, middle, format) {
  const mark = svg("g", {}, svg("title", {}, boxWords(row, box, format)));
  const add = (shape, property) => mark.append(paint(shape, property, colour));
  if (isNumber(box.lower) && isNumber(box.upper)) {
    add(line(x(box.lower), middle, x(box.upper), middle), "stroke");
    for (const end of [box.lower, box.upper]) add(line(x(end), middle - 3, x(end), middle + 3), "stroke");
  }
  if (isNumber(box.q1) && isNumber(box.q3)) {
    const width = Math.max(1, x(box.q3) - x(box.q1));
    const size = { x: x(box.q1), y: middle - 6, width, height: 12, rx: 2 };
    add(svg("rect", { ...size, "fill-opacity": 0.5 }), "fill");
  }
  if (isNumber(box.median)) {
    add(line(x(box.median), middle - 6, x(box.median), middle + 6, "chart-median"), "stroke");
  }
  if (isNumber(box.mean)) {
    mark.append(svg("circle", { cx: x(box.mean), cy: middle, r: 2.5, class: "chart-mean" }));
  }
  return mark;
}

// Horizontal box plots on a common scale, the boxes of a row overlaid.
export function boxes(rows, { label, format = short, onPick } = {}) {
  const all = (rows ?? []).flatMap((row) => row.boxes);
  const domain = extent(all.flatMap((box) => BOX_PARTS.map((part) => box[part])));
  if (!domain) return nothing(label);
  const names = new Map();
  for (const row of rows) row.boxes.forEach((box, index) => {
    if (!names.has(box.name)) names.set(box.name, box.colour ?? categorical(index));
  });
  const longest = Math.max(...rows.map((row) => String(row.name).length));
  const picture = plot((width) => {
    const left = Math.min(longest * 6.5, width * 0.34) + 12;
    const right = width - 16;
    const x = scale(domain, left, right);
    const marks = [];
    let top = 4;
    for (const row of rows) {
      const height = 20 + 9 * Math.max(0, row.boxes.length - 1);
      const group = svg("g", { "data-key": row.key },
        svg("rect", { x: 0, y: top, width, height, fill: "transparent" }),
        svg("text", { x: left - 8, y: top + height / 2 + 4, "text-anchor": "end" },
          svg("title", {}, String(row.name)), clip(String(row.name), left - 10)),
        ...row.boxes.map((box, index) =>
          boxMarks(row, box, box.colour ?? categorical(index), x, top + 10 + 9 * index, format)));
      const words = row.boxes.map((box) => boxWords(row, box, format)).join("; ");
      if (onPick) clickable(group, words, (event) => onPick(row, event));
      marks.push(group);
      top += height + 4;
    }
    marks.unshift(...bottomAxis(domain, x, left, right, 0, top, format));
    return { marks, height: top + 22 };
  });
  const entries = [...names].map(([name, colour]) => ({ name, colour }));
  const key = entries.length > 1 ? legend(entries) : null;
  return frame("chart-boxes", onPick ? "group" : "img", label, picture, key);
}

// The path through the points; a number that is missing breaks it.
function pathOf(xs, ys, x, y) {
  let path = "";
  let pen = "M";
  for (let index = 0; index < Math.min(xs.length, ys.length); index++) {
    const known = isNumber(xs[index]) && isNumber(ys[index]);
    if (known) path += `${pen}${x(xs[index]).toFixed(1)} ${y(ys[index]).toFixed(1)}`;
    pen = known ? "L" : "M";
  }
  return path;
}

function bandPath(band, x, y) {
  const known = Array.from(band.x.keys()).filter((index) =>
    isNumber(band.x[index]) && isNumber(band.lower[index]) && isNumber(band.upper[index]));
  const spot = (index, values) => `${x(band.x[index]).toFixed(1)} ${y(values[index]).toFixed(1)}`;
  const above = known.map((index) => spot(index, band.upper));
  const below = known.map((index) => spot(index, band.lower)).reverse();
  return known.length ? `M${[...above, ...below].join("L")}Z` : "";
}

// Lines over grey bands; the entries of the legend hide and show them.
export function curves(series, { label, x: titleX = "", y: titleY = "", bands = [] } = {}) {
  const lines = (series ?? []).map((one, index) => ({ ...one, colour: one.colour ?? categorical(index) }));
  const domainX = extent([...lines, ...bands].flatMap((one) => Array.from(one.x)));
  const domainY = extent([...lines.flatMap((one) => Array.from(one.y)),
    ...bands.flatMap((band) => [...band.lower, ...band.upper])]);
  if (!domainX || !domainY) return nothing(label);
  const all = [...lines, ...bands.map((band) => ({ ...band, band, colour: "var(--grey, #bbb)" }))];
  const hidden = new Set();
  const picture = plot((width) => {
    const [left, right, top, bottom] = [50, width - 14, 20, 220];
    const x = scale(domainX, left, right);
    const y = scale(domainY, bottom, top);
    const marks = leftAxis(domainY, y, left, right, short);
    marks.push(...bottomAxis(domainX, x, left, right, top, bottom, short));
    const shown = all.filter((one, index) => !hidden.has(index));
    for (const { band, name } of shown.filter((one) => one.band)) {
      const area = { d: bandPath(band, x, y), class: "chart-band" };
      marks.push(svg("path", area, svg("title", {}, String(name))));
    }
    for (const one of shown.filter((other) => !other.band)) {
      const look = { fill: "none", "stroke-width": 2, "stroke-dasharray": one.dashed ? "6 4" : null };
      const path = svg("path", { d: pathOf(one.x, one.y, x, y), ...look, "stroke-linecap": "round" },
        svg("title", {}, String(one.name)));
      marks.push(paint(path, "stroke", one.colour));
    }
    marks.push(text(left, 11, clip(String(titleY), right - left), "start", "chart-muted"),
      text((left + right) / 2, bottom + 32, clip(String(titleX), right - left), "middle", "chart-muted"));
    return { marks, height: bottom + 38 };
  });
  const key = legend(all, (index, shown) => {
    if (shown) hidden.delete(index);
    else hidden.add(index);
    picture.redraw();
  });
  return frame("chart-curves", "group", label, picture, key);
}

// A heat strip, one cell a value: red above zero, blue below.
export function strip(values, { label, names, onPick, symmetric = true } = {}) {
  const all = Array.from(values ?? []);
  const known = all.filter(isNumber);
  if (!known.length) return nothing(label);
  const highest = known.reduce((most, value) => Math.max(most, value), 0);
  const lowest = known.reduce((most, value) => Math.max(most, -value), 0);
  const most = (value) => (symmetric ? Math.max(highest, lowest) : value < 0 ? lowest : highest) || 1;
  const cells = all.map((value, index) => {
    const words = `${names?.[index] ?? index}: ${short(value)}`;
    const kind = isNumber(value) ? "chart-cell" : "chart-cell chart-unknown";
    const cell = html("div", { class: kind, title: words });
    if (isNumber(value)) {
      const heat = html("i", { class: value < 0 ? "chart-below" : null, "aria-hidden": true });
      cell.append(paint(heat, "opacity", String(Math.abs(value) / most(value))));
    }
    return onPick ? clickable(cell, words, (event) => onPick(index, event)) : cell;
  });
  if (onPick) rove(cells, 1);
  return frame(onPick ? "chart-strip chart-picks" : "chart-strip", onPick ? "group" : "img", label, ...cells);
}

function namer(given) {
  if (typeof given === "function") return (item, index) => String(given(item, index));
  return (item) => String(item?.name ?? item);
}

function bubble(x, y, cell, share, words) {
  const radius = share > 0 ? Math.max(1, Math.sqrt(share) * (cell / 2 - 1)) : 0;
  return svg("g", { class: "chart-bubble" }, svg("title", {}, words),
    svg("rect", { x, y, width: cell, height: cell, rx: 3 }),
    svg("circle", { cx: x + cell / 2, cy: y + cell / 2, r: radius }));
}

// Circles whose area is the count of a row and a column.
export function bubbles(rows, columns, counts, { label, rowName, columnName, onPick, active } = {}) {
  const most = Math.max(0, ...(counts ?? []).flatMap((row) => Array.from(row)).filter(isNumber));
  if (!rows?.length || !columns?.length || !most) return nothing(label);
  const rowNames = rows.map(namer(rowName));
  const columnNames = columns.map(namer(columnName));
  const longest = (names) => Math.max(...names.map((name) => name.length)) * 6.5;
  const picture = plot((width) => {
    const left = Math.min(longest(rowNames), Math.max(70, width * 0.28)) + 10;
    const cell = Math.max(20, Math.min(64, (width - left - 40) / columns.length));
    const isLevel = longest(columnNames) < cell;
    const head = isLevel ? 22 : Math.min(longest(columnNames), 110) * 0.72 + 18;
    const marks = columnNames.map((name, column) => {
      const [x, y] = [left + (column + 0.5) * cell, head - 6];
      const place = isLevel ? { "text-anchor": "middle" } : { transform: `rotate(-45 ${x} ${y})` };
      return svg("text", { x, y, ...place }, svg("title", {}, name), clip(name, 112));
    });
    const cells = [];
    rowNames.forEach((name, row) => {
      const middle = head + (row + 0.5) * cell;
      const words = text(left - 6, middle + 4, clip(name, left - 10), "end");
      words.append(svg("title", {}, name));
      marks.push(words);
      marks.push(line(left, middle, left + columns.length * cell, middle, "chart-grid"));
      columnNames.forEach((columnWords, column) => {
        const count = counts[row]?.[column];
        const told = `${name}, ${columnWords}: ${isNumber(count) ? count : "–"}`;
        const group = bubble(left + column * cell, head + row * cell, cell, count / most, told);
        const on = Boolean(active?.(row, column));
        group.classList.toggle("chart-active", on);
        if (onPick) clickable(group, told, (event) => onPick({ row, column }, event));
        if (onPick && active) group.setAttribute("aria-pressed", on);
        cells.push(group);
      });
    });
    if (onPick) rove(cells, columns.length);
    const wide = Math.max(width, left + columns.length * cell + 40);
    return { marks: [...marks, ...cells], height: head + rows.length * cell + 4, wide };
  });
  return frame("chart-bubbles", onPick ? "group" : "img", label, picture);
}

function graphNode(node, onPick) {
  const share = isNumber(node.share) ? `${short(node.share * 100)}%` : null;
  const words = share ? `${node.name}, ${share}` : String(node.name);
  const told = share ? html("span", { class: "chart-share" }, share) : null;
  const about = { tabindex: 0, title: words, role: "group", "aria-label": words, "data-key": node.key };
  const name = html("span", {}, String(node.name));
  const box = html("div", { class: "chart-node", ...about }, node.picture, name, told);
  return onPick ? clickable(box, words, (event) => onPick(node, event)) : box;
}

function placeNodes(levels, found, width) {
  const gap = Math.max(64, width * 0.1);
  const size = Math.max(84, Math.min(150, (width - gap * (levels.length - 1)) / levels.length));
  const step = levels.length > 1 ? Math.max(size + 64, (width - size) / (levels.length - 1)) : 0;
  const tall = levels.flat().some((node) => node.picture) ? 96 : 48;
  const height = Math.max(...levels.map((level) => level.length)) * (tall + 16);
  levels.forEach((level, depth) => level.forEach((node, index) => {
    const place = found.get(node.key);
    place.left = depth * step;
    place.right = place.left + size;
    place.middle = (height / level.length) * (index + 0.5);
    Object.assign(place.box.style, { left: `${place.left}px`, top: `${place.middle - tall / 2}px` });
    Object.assign(place.box.style, { width: `${size}px`, height: `${tall}px` });
  }));
  return { height, wide: Math.max(width, step * (levels.length - 1) + size) };
}

function edgeMarks(edge, from, to, most, index) {
  const [start, end] = from.left <= to.left ? [from, to] : [to, from];
  const [x1, y1, y2] = [start.right, start.middle, end.middle];
  const x2 = end.left > start.left ? end.left : end.right;
  const bend = Math.max(24, (x2 - x1) / 2);
  const pull = end.left > start.left ? x2 - bend : x2 + bend;
  const t = [0.3, 0.5, 0.7][index % 3];
  const u = 1 - t;
  const at = (a, b, c, d) => u ** 3 * a + 3 * u * u * t * b + 3 * u * t * t * c + t ** 3 * d;
  const kind = edge.weight < 0 ? "chart-edge chart-below" : "chart-edge";
  const thick = 1 + (7 * Math.abs(edge.weight)) / most;
  const path = `M${x1} ${y1}C${x1 + bend} ${y1} ${pull} ${y2} ${x2} ${y2}`;
  return [svg("path", { d: path, class: kind, "stroke-width": thick }),
    text(at(x1, x1 + bend, pull, x2), at(y1, y1, y2, y2) + 4, short(edge.weight), "middle", "chart-halo")];
}

// A layered graph from left to right, the width of an edge by its weight.
export function graph(levels, edges, { label, onPick } = {}) {
  const filled = (levels ?? []).filter((level) => level.length);
  if (!filled.length) return nothing(label);
  const found = new Map(filled.flat().map((node) => [node.key, { box: graphNode(node, onPick) }]));
  const known = (edges ?? []).filter(({ from, to, weight }) =>
    found.has(from) && found.has(to) && isNumber(weight));
  const most = Math.max(...known.map((edge) => Math.abs(edge.weight)), 0) || 1;
  const lines = svg("svg", { "aria-hidden": true });
  const nodes = Array.from(found.values(), (place) => place.box);
  const layers = html("div", { class: "chart-layers" }, lines, ...nodes);
  const holder = html("div", { class: "chart-plot" }, layers);
  relayout(holder, (width) => {
    const { height, wide } = placeNodes(filled, found, width);
    Object.assign(layers.style, { width: `${wide}px`, height: `${height}px` });
    fill(lines, { width: wide, height }, []);
    const drawn = known.map((edge, index) =>
      edgeMarks(edge, found.get(edge.from), found.get(edge.to), most, index));
    lines.replaceChildren(...drawn.map(([path]) => path), ...drawn.map(([, number]) => number));
  });
  return frame("chart-graph", "group", label, holder);
}
