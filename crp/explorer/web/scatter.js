// A scatter of many points on a 2D canvas: a grid index finds what is visible, a pixel buffer draws it.

const REACH = 12;
const THUMBNAIL = 40;
const MOST_THUMBNAILS = 150;
const PAUSE = 120;

function boundsOf(points) {
  const bounds = { left: Infinity, right: -Infinity, low: Infinity, high: -Infinity, count: 0 };
  for (let at = 0; at < points.length; at += 2) {
    const x = points[at];
    const y = points[at + 1];
    if (!Number.isFinite(x) || !Number.isFinite(y)) continue;
    bounds.count++;
    if (x < bounds.left) bounds.left = x;
    if (x > bounds.right) bounds.right = x;
    if (y < bounds.low) bounds.low = y;
    if (y > bounds.high) bounds.high = y;
  }
  return bounds.count ? bounds : { left: 0, right: 0, low: 0, high: 0, count: 0 };
}

// A uniform grid: the points of the cells of one row that follow each other lie in one run of slots.
class Grid {
  constructor(points, bounds) {
    this.bounds = bounds;
    this.side = Math.max(1, Math.min(256, Math.ceil(Math.sqrt(bounds.count / 8))));
    this.perX = this.side / (bounds.right - bounds.left || 1);
    this.perY = this.side / (bounds.high - bounds.low || 1);
    this.starts = new Uint32Array(this.side * this.side + 1);
    this.order = new Int32Array(bounds.count);
    this.xs = new Float32Array(bounds.count);
    this.ys = new Float32Array(bounds.count);
    const total = points.length >> 1;
    const cellOf = new Int32Array(total).fill(-1);
    for (let index = 0; index < total; index++) {
      const x = points[2 * index];
      const y = points[2 * index + 1];
      if (!Number.isFinite(x) || !Number.isFinite(y)) continue;
      cellOf[index] = this.row(y) * this.side + this.column(x);
      this.starts[cellOf[index] + 1]++;
    }
    for (let cell = 0; cell < this.side * this.side; cell++) this.starts[cell + 1] += this.starts[cell];
    const next = this.starts.slice();
    this.slotOf = new Int32Array(total).fill(-1);
    for (let index = 0; index < total; index++) {
      if (cellOf[index] < 0) continue;
      const slot = next[cellOf[index]]++;
      this.order[slot] = index;
      this.slotOf[index] = slot;
      this.xs[slot] = points[2 * index];
      this.ys[slot] = points[2 * index + 1];
    }
  }

  column(x) {
    return Math.max(0, Math.min(this.side - 1, Math.floor((x - this.bounds.left) * this.perX)));
  }

  row(y) {
    return Math.max(0, Math.min(this.side - 1, Math.floor((y - this.bounds.low) * this.perY)));
  }

  runs(left, low, right, high) {
    const found = [];
    const { bounds } = this;
    if (right < bounds.left || left > bounds.right || high < bounds.low || low > bounds.high) return found;
    for (let row = this.row(low); row <= this.row(high); row++) {
      const from = this.starts[row * this.side + this.column(left)];
      const to = this.starts[row * this.side + this.column(right) + 1];
      if (to > from) found.push([from, to]);
    }
    return found;
  }
}

// The half width of a disc for each of its rows.
function disc(radius) {
  const size = Math.max(0, Math.round(radius - 0.5));
  const halves = new Int32Array(2 * size + 1);
  for (let row = -size; row <= size; row++) {
    halves[row + size] = Math.min(size, Math.floor(Math.sqrt(Math.max(0, (radius + 0.3) ** 2 - row * row))));
  }
  return { size, halves };
}

function packed([red, green, blue, alpha]) {
  return new Uint32Array(new Uint8ClampedArray([red, green, blue, alpha]).buffer)[0];
}

function element(tag, className, attributes = {}) {
  const made = document.createElement(tag);
  made.className = className;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// Points in the plane that can be panned, zoomed, picked and selected.
export class Scatter {
  #options; #points; #bounds; #grid; #root; #canvas; #context; #tip; #live; #resize; #themes; #dark;
  #view = { x: 0, y: 0, scale: 1 }; #width = 0; #height = 0; #ratio = 1; #image = null; #pixels = null;
  #codes = null; #palette = []; #slotColours; #slotLoud; #mixed = false; #lit = new Set(); #litRuns = [];
  #marked = null; #hovered = null; #pointers = new Map(); #gesture = null; #pending = 0;
  #thumbs = new Map(); #asked = new Set(); #thumbTimer = 0; #viewTimer = 0;
  #gone = false; #reach = REACH; #keyed = false;

  constructor(host, options) {
    this.#options = options;
    this.#points = options.points ?? new Float32Array(0);
    this.#bounds = boundsOf(this.#points);
    this.#grid = new Grid(this.#points, this.#bounds);
    this.#slotColours = new Uint32Array(this.#bounds.count);
    this.#slotLoud = new Uint8Array(this.#bounds.count);
    this.#build(host, options.label ?? "points");
    this.#view = this.#home();
    this.#listen();
    this.#paint();
  }

  // The middle in the units of the points, and the zoom (1 shows everything).
  get view() {
    return { ...this.#view };
  }

  // Moves the view without telling onView.
  setView({ x, y, scale } = {}) {
    const { left, right, low, high } = this.#bounds;
    if (Number.isFinite(x)) this.#view.x = Math.max(left, Math.min(right, x));
    if (Number.isFinite(y)) this.#view.y = Math.max(low, Math.min(high, y));
    if (Number.isFinite(scale)) this.#view.scale = Math.max(0.5, Math.min(5000, scale));
    this.#redraw();
  }

  // Colours the points by category; -1 is grey, null is one colour for all.
  colour(codes, palette) {
    this.#codes = codes ?? null;
    this.#palette = palette ?? [];
    this.#paint();
  }

  // Shows these points in full and dims the others; none dims nothing.
  highlight(indices) {
    this.#lit = new Set(Array.from(indices ?? []).filter((index) => this.#known(index)));
    const slots = Array.from(this.#lit, (index) => this.#grid.slotOf[index]);
    this.#litRuns = slots.map((slot) => [slot, slot + 1]);
    this.#redraw();
  }

  // Draws a ring about one point.
  mark(index) {
    this.#marked = this.#known(index) ? index : null;
    this.#redraw();
  }

  // Takes the canvas out of the page and stops all observers.
  destroy() {
    this.#gone = true;
    cancelAnimationFrame(this.#pending);
    clearTimeout(this.#thumbTimer);
    clearTimeout(this.#viewTimer);
    this.#resize.disconnect();
    this.#themes.disconnect();
    this.#dark.removeEventListener("change", this.#paint);
    this.#root.remove();
  }

  #build(host, label) {
    this.#root = element("div", "scatter", { role: "group", "aria-label": label });
    const help = "arrow keys move, plus and minus zoom, 0 shows all, Enter picks the point in the middle";
    const about = { tabindex: "0", role: "application", "aria-label": `${label}: ${help}` };
    this.#canvas = element("canvas", "scatter-canvas", about);
    this.#tip = element("div", "scatter-tip", { "aria-hidden": "true" });
    this.#tip.hidden = true;
    this.#live = element("div", "scatter-live", { "aria-live": "polite" });
    const empty = element("div", "scatter-empty");
    empty.textContent = "nothing to show";
    empty.hidden = this.#bounds.count > 0;
    this.#context = this.#canvas.getContext("2d", { willReadFrequently: true });
    this.#root.append(this.#canvas, this.#tip, this.#live, empty);
    host.append(this.#root);
  }

  #listen() {
    const on = (name, act, options) => this.#canvas.addEventListener(name, act, options);
    on("pointerdown", (event) => this.#down(event));
    on("pointermove", (event) => this.#move(event));
    on("pointerup", (event) => this.#up(event));
    on("pointercancel", (event) => this.#drop(event));
    on("pointerleave", () => this.#hover(null));
    on("wheel", (event) => this.#wheel(event), { passive: false });
    on("keydown", (event) => this.#key(event));
    on("focus", () => this.#redraw());
    on("blur", () => {
      this.#keyed = false;
      this.#redraw();
    });
    this.#resize = new ResizeObserver(() => this.#redraw());
    this.#resize.observe(this.#root);
    this.#themes = new MutationObserver(this.#paint);
    this.#themes.observe(document.documentElement, { attributes: true });
    this.#dark = matchMedia("(prefers-color-scheme: dark)");
    this.#dark.addEventListener("change", this.#paint);
  }

  #known(index) {
    return Number.isInteger(index) && Number.isFinite(this.#points[2 * index]) &&
      Number.isFinite(this.#points[2 * index + 1]);
  }

  #home() {
    const { left, right, low, high } = this.#bounds;
    return { x: (left + right) / 2, y: (low + high) / 2, scale: 1 };
  }

  // Pixels of the page for one unit of the points.
  #unit() {
    const wide = this.#bounds.right - this.#bounds.left;
    const tall = this.#bounds.high - this.#bounds.low;
    const fit = Math.min(wide ? this.#width / wide : Infinity, tall ? this.#height / tall : Infinity);
    return (Number.isFinite(fit) ? fit * 0.9 : 100) * this.#view.scale || 1;
  }

  #screen(index) {
    const unit = this.#unit();
    return [this.#width / 2 + (this.#points[2 * index] - this.#view.x) * unit,
      this.#height / 2 - (this.#points[2 * index + 1] - this.#view.y) * unit];
  }

  #inside(left, top, right, bottom) {
    const unit = this.#unit();
    const x = (pixel) => this.#view.x + (pixel - this.#width / 2) / unit;
    const y = (pixel) => this.#view.y - (pixel - this.#height / 2) / unit;
    const [x0, x1, y0, y1] = [x(left), x(right), y(bottom), y(top)];
    const { xs, ys, order } = this.#grid;
    const found = [];
    for (const [from, to] of this.#grid.runs(x0, y0, x1, y1)) {
      for (let slot = from; slot < to; slot++) {
        if (xs[slot] >= x0 && xs[slot] <= x1 && ys[slot] >= y0 && ys[slot] <= y1) found.push(order[slot]);
      }
    }
    return Int32Array.from(found).sort();
  }

  #nearest(x, y, reach) {
    let best = null;
    let least = reach * reach;
    for (const index of this.#inside(x - reach, y - reach, x + reach, y + reach)) {
      const [px, py] = this.#screen(index);
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance <= least) [best, least] = [index, distance];
    }
    return best;
  }

  #middle() {
    const [x, y] = [this.#width / 2, this.#height / 2];
    for (let reach = REACH; reach < 2 * (x + y); reach *= 2) {
      const found = this.#nearest(x, y, reach);
      if (found !== null) return found;
    }
    return null;
  }

  #name(index) {
    return String(this.#options.names?.(index) ?? index);
  }

  // Reads the colours of the page anew, as the theme may have changed.
  #paint = () => {
    if (this.#gone) return;
    const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const style = getComputedStyle(this.#root);
    const read = (colour) => {
      this.#root.style.outlineColor = "";
      this.#root.style.outlineColor = colour;
      probe.clearRect(0, 0, 1, 1);
      probe.fillStyle = "#888";
      probe.fillStyle = style.outlineColor;
      probe.fillRect(0, 0, 1, 1);
      return packed(probe.getImageData(0, 0, 1, 1).data);
    };
    const grey = read("var(--grey, #aaa)");
    const colours = (this.#palette.length ? this.#palette : ["var(--accent, #2a6fdb)"]).map(read);
    this.#root.style.outlineColor = "";
    const { order } = this.#grid;
    let loud = 0;
    for (let slot = 0; slot < order.length; slot++) {
      const code = this.#codes ? this.#codes[order[slot]] : 0;
      this.#slotLoud[slot] = code >= 0 ? 1 : 0;
      this.#slotColours[slot] = code >= 0 ? colours[code % colours.length] : grey;
      loud += this.#slotLoud[slot];
    }
    this.#mixed = loud > 0 && loud < order.length;
    this.#redraw();
  };

  #redraw() {
    if (!this.#pending && !this.#gone) this.#pending = requestAnimationFrame(() => this.#draw());
  }

  #fit() {
    const ratio = Math.min(3, window.devicePixelRatio || 1);
    const [width, height] = [this.#root.clientWidth, this.#root.clientHeight];
    if (width === this.#width && height === this.#height && ratio === this.#ratio && this.#image) return true;
    [this.#width, this.#height, this.#ratio] = [width, height, ratio];
    const [wide, tall] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (!wide || !tall) return false;
    this.#canvas.width = wide;
    this.#canvas.height = tall;
    this.#image = this.#context.createImageData(wide, tall);
    this.#pixels = new Uint32Array(this.#image.data.buffer);
    return true;
  }

  #radius() {
    const base = this.#bounds.count > 20000 ? 1.5 : this.#bounds.count > 3000 ? 2 : 3;
    return Math.min(5, base * Math.max(1, this.#view.scale) ** 0.3);
  }

  #draw() {
    this.#pending = 0;
    if (this.#gone || !this.#fit()) return;
    this.#pixels.fill(0);
    const shown = this.#stampAll();
    this.#context.putImageData(this.#image, 0, 0);
    this.#context.setTransform(this.#ratio, 0, 0, this.#ratio, 0, 0);
    this.#drawThumbnails(shown);
    this.#drawOver();
    this.#placeTip();
  }

  // Stamps the visible points into the pixels; gives them back if they are few.
  #stampAll() {
    const { x, y } = this.#view;
    const ratio = this.#ratio;
    const unit = this.#unit();
    const [reachX, reachY] = [(this.#width / 2 + 8) / unit, (this.#height / 2 + 8) / unit];
    const runs = this.#grid.runs(x - reachX, y - reachY, x + reachX, y + reachY);
    const origin = [(this.#width / 2 - x * unit) * ratio, (this.#height / 2 + y * unit) * ratio];
    const place = { step: unit * ratio, x: origin[0], y: origin[1] };
    const shape = disc(this.#radius() * ratio);
    const mask = this.#lit.size ? 0x38ffffff : 0xffffffff;
    let count = 0;
    for (const loud of this.#mixed ? [0, 1] : [-1]) count += this.#stamp(runs, shape, place, loud, mask);
    this.#stamp(this.#litRuns, disc((this.#radius() + 1) * ratio), place, -1, 0xffffffff);
    if (count >= MOST_THUMBNAILS) return [];
    return this.#inside(-THUMBNAIL, -THUMBNAIL, this.#width + THUMBNAIL, this.#height + THUMBNAIL);
  }

  // The one hot loop. Pixels are stored with the alpha in the highest byte, which the mask lowers.
  #stamp(runs, { size, halves }, { step, x: offsetX, y: offsetY }, loud, mask) {
    const pixels = this.#pixels;
    const [wide, tall] = [this.#canvas.width, this.#canvas.height];
    const { xs, ys } = this.#grid;
    const [colours, louds] = [this.#slotColours, this.#slotLoud];
    let count = 0;
    for (const [from, to] of runs) {
      for (let slot = from; slot < to; slot++) {
        if (loud >= 0 && louds[slot] !== loud) continue;
        const px = Math.floor(offsetX + xs[slot] * step);
        const py = Math.floor(offsetY - ys[slot] * step);
        if (px < size || py < size || px >= wide - size || py >= tall - size) continue;
        count++;
        const colour = colours[slot] & mask;
        for (let row = -size; row <= size; row++) {
          const middle = (py + row) * wide + px;
          const end = middle + halves[row + size];
          for (let at = middle - halves[row + size]; at <= end; at++) pixels[at] = colour;
        }
      }
    }
    return count;
  }

  // Draws pictures at those of the points that keep a distance from each other; asks for missing ones.
  #drawThumbnails(shown) {
    this.#reach = REACH;
    if (!this.#options.thumbnails || !shown.length) return;
    const placed = [];
    for (const index of shown) {
      const [x, y] = this.#screen(index);
      if (placed.every((other) => Math.max(Math.abs(other.x - x), Math.abs(other.y - y)) >= THUMBNAIL)) {
        placed.push({ index, x, y });
      }
    }
    for (const { index, x, y } of placed) {
      const picture = this.#thumbs.get(index);
      if (!picture) continue;
      this.#drawPicture(picture, index, x - THUMBNAIL / 2, y - THUMBNAIL / 2);
      this.#reach = THUMBNAIL * 0.6;
    }
    clearTimeout(this.#thumbTimer);
    const missing = placed.map(({ index }) => index).filter((index) => !this.#asked.has(index));
    if (missing.length) this.#thumbTimer = setTimeout(() => this.#ask(Int32Array.from(missing)), PAUSE);
  }

  #drawPicture(picture, index, x, y) {
    const size = THUMBNAIL;
    const { source = picture, sx, sy, sw, sh } = picture;
    const dim = this.#lit.size > 0 && !this.#lit.has(index);
    this.#context.globalAlpha = dim ? 0.35 : 1;
    if (sw) this.#context.drawImage(source, sx ?? 0, sy ?? 0, sw, sh ?? sw, x, y, size, size);
    else this.#context.drawImage(source, x, y, size, size);
    const bytes = new Uint8Array(new Uint32Array([this.#slotColours[this.#grid.slotOf[index]]]).buffer);
    this.#context.strokeStyle = `rgb(${bytes[0]}, ${bytes[1]}, ${bytes[2]})`;
    this.#context.lineWidth = 2;
    this.#context.strokeRect(x, y, size, size);
    this.#context.globalAlpha = 1;
  }

  async #ask(indices) {
    if (this.#thumbs.size > 2000) {
      this.#thumbs.clear();
      this.#asked.clear();
    }
    for (const index of indices) this.#asked.add(index);
    try {
      const found = await this.#options.thumbnails(indices);
      for (const [index, picture] of found ?? []) this.#thumbs.set(Number(index), picture);
    } catch {
      for (const index of indices) this.#asked.delete(index);
      return;
    }
    this.#redraw();
  }

  // The ring, the crosshair and the box of a selection.
  #drawOver() {
    const context = this.#context;
    const style = getComputedStyle(this.#root);
    context.strokeStyle = style.color;
    context.lineWidth = 2;
    for (const index of [this.#marked, this.#hovered]) {
      if (index === null) continue;
      const [x, y] = this.#screen(index);
      context.beginPath();
      context.arc(x, y, index === this.#marked ? 9 : 6, 0, 2 * Math.PI);
      context.stroke();
    }
    context.lineWidth = 1;
    if (this.#keyed || this.#canvas.matches(":focus-visible")) {
      const [x, y] = [Math.round(this.#width / 2) + 0.5, Math.round(this.#height / 2) + 0.5];
      context.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + 4 * dx, y + 4 * dy);
        context.lineTo(x + 14 * dx, y + 14 * dy);
      }
      context.stroke();
    }
    if (this.#gesture?.kind !== "select") return;
    const { startX, startY, x, y } = this.#gesture;
    context.setLineDash([4, 3]);
    context.strokeRect(startX + 0.5, startY + 0.5, x - startX, y - startY);
    context.setLineDash([]);
  }

  #placeTip() {
    if (this.#hovered === null) return;
    const [x, y] = this.#screen(this.#hovered);
    const left = Math.max(0, Math.min(this.#width - this.#tip.offsetWidth, x + 10));
    this.#tip.style.transform = `translate(${left}px, ${y < 34 ? y + 12 : y - 30}px)`;
  }

  #hover(index) {
    if (index === this.#hovered) return;
    this.#hovered = index;
    this.#tip.hidden = index === null;
    if (index !== null) this.#tip.textContent = this.#name(index);
    this.#options.onHover?.(index);
    this.#redraw();
  }

  #moved(view) {
    this.setView(view);
    clearTimeout(this.#viewTimer);
    this.#viewTimer = setTimeout(() => this.#options.onView?.(this.view), PAUSE);
  }

  #pan(dx, dy) {
    const unit = this.#unit();
    this.#moved({ x: this.#view.x - dx / unit, y: this.#view.y + dy / unit });
  }

  // Zooms so that what is under the pixel stays there.
  #zoom(factor, x = this.#width / 2, y = this.#height / 2) {
    const scale = Math.max(0.5, Math.min(5000, this.#view.scale * factor));
    const unit = this.#unit();
    const [dx, dy] = [x - this.#width / 2, y - this.#height / 2];
    const shift = 1 / unit - 1 / ((unit * scale) / this.#view.scale);
    this.#moved({ x: this.#view.x + dx * shift, y: this.#view.y - dy * shift, scale });
  }

  #at(event) {
    const box = this.#canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  #down(event) {
    if (event.button > 0 || this.#pointers.size > 1) return;
    const place = this.#at(event);
    this.#keyed = false;
    if (event.isTrusted) this.#canvas.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, place);
    const kind = this.#pointers.size > 1 ? "pinch" : event.shiftKey ? "select" : "pan";
    this.#gesture = { kind, startX: place.x, startY: place.y, ...place, far: kind === "pinch" };
  }

  #move(event) {
    const place = this.#at(event);
    const before = this.#pointers.get(event.pointerId);
    const gesture = this.#gesture;
    if (!before || !gesture) return this.#hover(this.#nearest(place.x, place.y, this.#reach));
    this.#pointers.set(event.pointerId, place);
    if (Math.hypot(place.x - gesture.startX, place.y - gesture.startY) > 4) gesture.far = true;
    Object.assign(gesture, place);
    if (!gesture.far) return undefined;
    this.#hover(null);
    if (gesture.kind === "pinch") return this.#pinch(event.pointerId, before, place);
    if (gesture.kind === "select") return this.#redraw();
    this.#canvas.classList.add("scatter-moving");
    return this.#pan(place.x - before.x, place.y - before.y);
  }

  #pinch(pointer, before, place) {
    const other = [...this.#pointers].find(([id]) => id !== pointer)?.[1];
    if (!other) return;
    const apart = (spot) => Math.hypot(spot.x - other.x, spot.y - other.y) || 1;
    this.#pan((place.x - before.x) / 2, (place.y - before.y) / 2);
    this.#zoom(apart(place) / apart(before), (place.x + other.x) / 2, (place.y + other.y) / 2);
  }

  #up(event) {
    const gesture = this.#gesture;
    const mine = this.#pointers.has(event.pointerId);
    this.#drop(event);
    if (!mine || !gesture || gesture.kind === "pinch") return;
    const { startX, startY, x, y } = gesture;
    if (!gesture.far) {
      const index = this.#nearest(x, y, this.#reach);
      if (index !== null) this.#options.onPick?.(index, event);
    } else if (gesture.kind === "select") {
      const box = [Math.min(startX, x), Math.min(startY, y), Math.max(startX, x), Math.max(startY, y)];
      this.#options.onSelect?.(this.#inside(...box));
    }
  }

  // Ends the gesture; the finger that stays after a pinch pans on.
  #drop(event) {
    this.#pointers.delete(event.pointerId);
    const [rest] = this.#pointers.values();
    this.#gesture = rest ? { kind: "pan", startX: rest.x, startY: rest.y, ...rest, far: true } : null;
    this.#canvas.classList.remove("scatter-moving");
    this.#redraw();
  }

  #wheel(event) {
    event.preventDefault();
    const { x, y } = this.#at(event);
    const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? this.#height : 1);
    this.#zoom(Math.exp(-Math.max(-400, Math.min(400, pixels)) * 0.0015), x, y);
    if (this.#hovered !== null) this.#hover(this.#nearest(x, y, this.#reach));
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const [stepX, stepY] = [this.#width * 0.12, this.#height * 0.12];
    const acts = {
      ArrowLeft: () => this.#pan(stepX, 0), ArrowRight: () => this.#pan(-stepX, 0),
      ArrowUp: () => this.#pan(0, stepY), ArrowDown: () => this.#pan(0, -stepY),
      "+": () => this.#zoom(1.3), "=": () => this.#zoom(1.3),
      "-": () => this.#zoom(1 / 1.3), _: () => this.#zoom(1 / 1.3), 0: () => this.#moved(this.#home()),
      Enter: () => this.#pickMiddle(event), " ": () => this.#pickMiddle(event),
    };
    if (!Object.hasOwn(acts, event.key)) return;
    event.preventDefault();
    this.#keyed = true;
    acts[event.key]();
    this.#redraw();
  }

  #pickMiddle(event) {
    const index = this.#middle();
    if (index === null) return;
    this.#live.textContent = this.#name(index);
    this.#options.onPick?.(index, event);
  }
}
