"""Random valid graphs of our nodes and ComfyUI's, for a real server.

`grammar` reads from `/object_info` which nodes there are and what fits where, `values` draws what their widgets hold,
`making` joins them into a prompt, `judging` runs it and says whose error it was, and `shrinking` makes a failing graph
small.
"""
