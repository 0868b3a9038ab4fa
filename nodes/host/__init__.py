"""The only place that knows ComfyUI's internals. An update of ComfyUI breaks files in here and nowhere else."""
