/* Shows what VideoCrafter Video Combine says about its file. The text is part of the node's output, so it comes with the
   video: to the page that queued the run, and again when its workflow comes back into view. */

import { app } from "../../scripts/app.js";

const COMBINE = "VideoCrafterVideoCombine";
const NAME = "videocrafter_text";

function show(node, lines) {
  if (!lines?.length) return;
  let widget = node.widgets?.find((each) => each.name === NAME);
  if (!widget) {
    const box = document.createElement("div");
    Object.assign(box.style, { whiteSpace: "pre-wrap", overflow: "auto", fontSize: "12px", padding: "4px 8px" });
    box.style.color = "var(--input-text, #ddd)";
    const height = () => 56;
    const options = { serialize: false, hideOnZoom: false, getMinHeight: height, getMaxHeight: height };
    widget = node.addDOMWidget(NAME, NAME, box, options);
    widget.serialize = false; // no value of the workflow
  }
  widget.element.textContent = lines.join("\n");
  node.setDirtyCanvas?.(true, true);
}

/** The node of a key of the page's outputs: an id, within a subgraph with the subgraph's own in front. */
function nodeOf(key) {
  const graph = app.rootGraph ?? app.graph;
  const [id, subgraph] = String(key).split(":").reverse();
  return (subgraph ? graph.subgraphs?.get(subgraph) : graph)?.getNodeById(id);
}

app.registerExtension({
  name: "VideoCrafter.WrittenText",
  beforeRegisterNodeDef(type, definition) {
    if (definition.name !== COMBINE) return;
    const executed = type.prototype.onExecuted;
    type.prototype.onExecuted = function (output) {
      executed?.apply(this, arguments);
      show(this, output?.text);
    };
  },
  onNodeOutputsUpdated(outputs) {
    for (const [key, output] of Object.entries(outputs)) {
      const node = nodeOf(key);
      if (node?.type === COMBINE) show(node, output?.text);
    }
  },
});
