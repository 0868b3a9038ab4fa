/* Shows the messages of VideoCrafter Video Combine in the node. They are part of the node's output, so they arrive with the
   video: in the page that queued the run, and again when its workflow is reopened. */

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
    widget.serialize = false; // not saved in the workflow
  }
  widget.element.textContent = lines.join("\n");
  node.setDirtyCanvas?.(true, true);
}

/** The node for a key of the outputs: its id, prefixed with the id of its subgraph, if any. */
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
