"""A real ComfyUI for the tests: in this process (`inprocess`) and as a server (`server`).

The fixtures live in `tests/conftest.py`; a test asks for them by name:

- `base`: the folders both kinds share. `base.model("checkpoints", "a.ckpt")` is where ComfyUI finds that file.
- `comfy`: ComfyUI and our pack in this process. `comfy.call("VideoCrafterEmptyLatent", width=64).values` runs a node.
- `server`: one running ComfyUI for the whole session. `server.run(prompt)` posts a prompt and follows it to its end.
- `start_server`: a function that starts another one with further options of ComfyUI's command line.
"""
