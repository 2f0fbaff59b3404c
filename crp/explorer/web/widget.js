// The explorer in a cell of a notebook: what it asks goes to the kernel as messages, and answers come back so.
import { Data } from "./data.js";
import { start } from "./main.js";

// What anywidget calls.
export function render({ model, el }) {
  const waiting = new Map();
  let turn = 0;
  const answered = (message, buffers) => {
    const wait = waiting.get(message.id);
    if (!wait) return;
    waiting.delete(message.id);
    const view = buffers[0];
    const bytes = view instanceof ArrayBuffer ? view : view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
    wait({ status: message.status, type: message.type, shape: message.shape, bytes });
  };
  model.on("msg:custom", answered);

  async function ask(path, { method = "GET", body } = {}) {
    turn += 1;
    const id = turn;
    const bytes = body === undefined ? new ArrayBuffer(0) : typeof body === "string" ? new TextEncoder().encode(body).buffer : body;
    return new Promise((resolve) => {
      waiting.set(id, resolve);
      model.send({ id, path, method }, undefined, [bytes]);
    });
  }

  const past = [];
  let here = model.get("place") || "";
  const place = {
    read: () => here,
    write(text, replace) {
      if (!replace) past.push(here);
      here = text;
      model.set("place", text);
      model.save_changes();
    },
    watch(act) {
      model.on("change:place", () => {
        if (model.get("place") === here) return;
        here = model.get("place");
        act();
      });
    },
  };
  const root = document.createElement("div");
  root.className = "explorer explorer-cell";
  root.style.height = `${model.get("height")}px`;
  el.append(root);
  start({
    root, data: new Data(ask), address: place, scroller: root, onSelect(selection) {
      model.set("_selection", selection);
      model.save_changes();
    },
  });
  return () => model.off("msg:custom", answered);
}
