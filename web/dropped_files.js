/* ComfyUI restores the workflow from dropped PNG, WebP, MP4, MOV and WebM files. This adds GIF and MKV. */

import { app } from "../../scripts/app.js";

const ENOUGH = 2 * 1024 * 1024; // bytes; in Matroska files, tags come before the frames
const KEYS = ["workflow", "prompt"];

/** The values of GIF comments "key:value", by key. */
export function readGif(bytes) {
  const found = {};
  const table = (flags) => (flags & 0x80 ? 3 * 2 ** ((flags & 7) + 1) : 0);
  let at = 13 + table(bytes[10]);
  const blocks = () => {
    const parts = [];
    while (bytes[at]) {
      parts.push(bytes.subarray(at + 1, at + 1 + bytes[at]));
      at += 1 + bytes[at];
    }
    at += 1;
    return parts;
  };
  while (at < bytes.length && bytes[at] !== 0x3b) {
    if (bytes[at] === 0x2c) {
      at += 11 + table(bytes[at + 9]);
      blocks();
    } else {
      const comment = bytes[at + 1] === 0xfe;
      at += 2;
      const parts = blocks();
      if (comment) {
        const text = decode(parts);
        const colon = text.indexOf(":");
        found[text.slice(0, colon)] = text.slice(colon + 1);
      }
    }
  }
  return found;
}

/** The values of Matroska tags, by lower-case name. */
export function readMatroska(bytes) {
  const found = {};
  const [SEGMENT, TAGS, TAG, SIMPLE, NAME, TEXT] = [0x18538067, 0x1254c367, 0x7373, 0x67c8, 0x45a3, 0x4487];
  const walk = (start, end, visit) => {
    for (let at = start; at < end; ) {
      const id = vint(bytes, at, false);
      const size = vint(bytes, at + id.length, true);
      const inside = at + id.length + size.length;
      const stop = Math.min(Number.isFinite(size.value) ? inside + size.value : end, end);
      visit(id.value, inside, stop);
      at = stop;
    }
  };
  const text = (start, end) => decode([bytes.subarray(start, end)]).replace(/\0+$/, "");
  const simple = (start, end) => {
    let name = "", value = "";
    walk(start, end, (id, from, to) => {
      if (id === NAME) name = text(from, to);
      if (id === TEXT) value = text(from, to);
    });
    found[name.toLowerCase()] = value;
  };
  const visit = (id, from, to) => {
    if (id === SIMPLE) simple(from, to);
    else if (id === SEGMENT || id === TAGS || id === TAG) walk(from, to, visit);
  };
  walk(0, bytes.length, visit);
  return found;
}

function vint(bytes, at, masked) {
  const length = Math.clz32(bytes[at]) - 23;
  if (at >= bytes.length || length > 8) return { value: Infinity, length: 1 };
  let value = masked ? bytes[at] & (0xff >> length) : bytes[at];
  let unknown = masked && value === 0xff >> length;
  for (let i = 1; i < length; i++) {
    value = value * 256 + bytes[at + i];
    unknown = unknown && bytes[at + i] === 0xff;
  }
  return { value: unknown ? Infinity : value, length };
}

function decode(parts) {
  const decoder = new TextDecoder();
  return parts.map((part) => decoder.decode(part, { stream: true })).join("") + decoder.decode();
}

async function metadataOf(file) {
  const gif = /\.gif$/i.test(file.name);
  const bytes = new Uint8Array(await (gif ? file : file.slice(0, ENOUGH)).arrayBuffer());
  const texts = (gif ? readGif : readMatroska)(bytes);
  const found = {};
  for (const key of KEYS) {
    try {
      found[key] = JSON.parse(texts[key]);
    } catch {
      found[key] = null; // missing, or written by another program
    }
  }
  return found;
}

async function open(file) {
  const { workflow, prompt } = await metadataOf(file).catch(() => ({}));
  const title = file.name.replace(/\.\w+$/, "");
  if (workflow) await app.loadGraphData(workflow, true, true, title);
  else if (prompt) app.loadApiJson(prompt, title);
  else await app.handleFile(file, "file_drop");
}

app.registerExtension({
  name: "VideoCrafter.DroppedFiles",
  setup() {
    document.addEventListener(
      "drop",
      (event) => {
        const files = event.dataTransfer?.files ?? [];
        const ours = files.length === 1 && /\.(gif|mkv)$/i.test(files[0].name);
        if (!ours || event.defaultPrevented || app.dragOverNode) return;
        event.preventDefault();
        event.stopImmediatePropagation();
        open(files[0]);
      },
      { capture: true },
    );
  },
});
