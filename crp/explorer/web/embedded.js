// The explorer as files beside the page, or within it: no server, no network.
import { Data, Refusal } from "./data.js";
import { start } from "./main.js";
import { address } from "./place.js";

const ABSENT = "This copy is static, and does not hold this. Open the store with crp explore to see it.";

// Answers from files; each is a script that adds what it holds when it is needed.
export function embedded() {
  const answers = {};
  const loading = new Map();
  const found = {
    places: {}, pictures: null, first: "",
    add(more) {
      Object.assign(answers, more);
    },
    start: (root) => begin(root),
  };

  const load = (file) => {
    if (!loading.has(file)) {
      loading.set(file, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = file;
        script.onload = resolve;
        script.onerror = () => reject(new Refusal(0, `${file} is missing beside this page.`));
        document.head.append(script);
      }));
    }
    return loading.get(file);
  };

  async function ask(path, { method = "GET" } = {}) {
    const file = found.places[path];
    if (method !== "GET" || file === undefined) return refusal();
    if (!answers[path]) await load(file);
    const { type, shape, told } = answers[path];
    return { status: 200, type, shape, bytes: type.startsWith("application/json") ? new TextEncoder().encode(told).buffer : bytesOf(told) };
  }
  // Where a picture is; of one that is not there, nothing.
  ask.url = (path) => {
    const file = found.places[path] || (path.startsWith("data/") ? path : undefined);
    if (file === undefined) throw new Refusal(404, ABSENT);
    return found.pictures ? found.pictures[file] : file;
  };

  async function begin(root) {
    if (!found.pictures) await load("data/index.js");
    if (found.first && !window.location.hash) address.write(found.first, true);
    const data = new Data(ask);
    const copy = await data.json("/export");
    await start({ root, data, address, isStatic: true, copy });
  }
  return found;
}

function refusal() {
  const bytes = new TextEncoder().encode(JSON.stringify({ error: ABSENT })).buffer;
  return { status: 404, type: "application/json", shape: "", bytes };
}

function bytesOf(told) {
  const text = atob(told);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
  return bytes.buffer;
}
