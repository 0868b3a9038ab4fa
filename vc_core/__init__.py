"""The VideoCrafter models in plain torch: from a prompt or an image to the frames of a video.

Start with `vc_core.pipeline`, which shows the whole process on one page.
"""
