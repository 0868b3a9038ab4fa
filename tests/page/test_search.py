"""Search terms of the nodes, with the frontend's search as far as Python can reproduce it.

The page searches names, display names and aliases, each separately, for all words of a query. It sorts the results
only by name and display name: equal to the query, beginning with it, holding it, then by length. The page also
tolerates typos, which is ignored here: it finds more than this.
"""

from __future__ import annotations

import re

import pytest

WORDS = re.compile(r" |\b|(?<=[a-z])(?=[A-Z])|(?=[A-Z][a-z])")
LOADER, SAMPLER, COMBINE = "VideoCrafterCheckpointLoader", "VideoCrafterKSampler", "VideoCrafterVideoCombine"
PICTURES, WINDOWS, LORA = "VideoCrafterPictureToVideo", "VideoCrafterContextWindows", "VideoCrafterLoraLoader"

FINDS = {
    "save mp4": {COMBINE},
    "mp4": {COMBINE},
    "lcm turbo": {SAMPLER, LORA, "VideoCrafterScheduler"},
    "few steps": {SAMPLER, LORA, "VideoCrafterScheduler"},
    "cartoon": {PICTURES, LOADER},
    "toon": {PICTURES, LOADER},
    "loop": {SAMPLER, WINDOWS, PICTURES},
    "infinite": {SAMPLER, WINDOWS, "VideoCrafterFreeNoise"},
    "morph": {PICTURES, "VideoCrafterPromptsOverTime"},
    "start frame": {PICTURES},
    "end frame": {PICTURES},
    "start end frame": {PICTURES},
    "interpolate frames": {PICTURES},
    "dynamicrafter": {LOADER, SAMPLER, PICTURES},
    "videocrafter": {LOADER, SAMPLER},
}
IN_SIGHT = 4
"""Number of results visible without scrolling."""


@pytest.fixture(scope="module")
def nodes(comfy):
    """Node id -> display name and aliases."""
    schemas = {name: node.GET_SCHEMA() for name, node in comfy.ours.items()}
    return {name: (schema.display_name, schema.search_aliases) for name, schema in schemas.items()}


def search(nodes, query):
    """The ids that the page lists for a query, in order."""
    words = query.split()
    found = []
    for name, (title, aliases) in nodes.items():
        texts = [text.lower() for text in (name, title, *aliases)]
        if any(all(word in text for word in words) for text in texts):
            found.append((min(_rank(query, text) for text in (name, title)), name))
    return [name for _, name in sorted(found)]


def _rank(query, text):
    parts, text = [part.lower() for part in WORDS.split(text)], text.lower()
    if text == query:
        return (0, 0)
    if text.startswith(query):
        return (1, len(text))
    if query in parts:
        return (2, len(text))
    return (3, len(text)) if query in text else (9, 0)


@pytest.mark.parametrize("query", FINDS)
def test_words_find_their_nodes(nodes, query):
    assert set(search(nodes, query)) >= FINDS[query]


def test_the_loader_is_in_sight(nodes):
    """The first node that a person needs; FPS and Decode are shorter words, by which the page sorts."""
    assert LOADER in search(nodes, "videocrafter")[:IN_SIGHT]
