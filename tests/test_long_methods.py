"""The records of the long-video methods, and what is read from them."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from vc_core.errors import UserError
from vc_core.long import METHODS, Method, method_named
from vc_core.long.method import Feature, Use, Video
from vc_core.long.table import check, markdown, options
from vc_core.options import add_video_options, long_of, request_of
from vc_core.specs import PRESETS

ROOT = Path(__file__).resolve().parent.parent
EVERY = [(name, item) for name, method in METHODS.items() for item in method.parameters()]
each = pytest.mark.parametrize("name", METHODS)


def parsed(*given: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_video_options(parser)
    parsed = parser.parse_args(["a boat", "--model", "x", *map(str, given)])
    return argparse.Namespace(image_cfg=None, start_timestep=None, fit=None, loop=False, **vars(parsed))


@each
def test_a_record_says_everything_that_is_shown(name: str) -> None:
    method = METHODS[name]
    assert method.name == name
    for text in (method.summary, method.use, method.memory, method.time, *method.conflicts.values()):
        assert text
        assert "|" not in text
        assert not text.endswith(".")
    for item in method.parameters():
        item.check(item.default, name)
        assert len(item.help) > 20


@each
def test_the_command_lines_defaults_are_those_of_the_methods(name: str) -> None:
    """So are the nodes', see `nodes/test_long.py`."""
    assert long_of(parsed("--long", name)) == METHODS[name]()
    spec = PRESETS["videocrafter2_512"]
    request = request_of(parsed("--long", name), spec)
    assert request.sampling is not None
    assert request.sampling.eta == (spec.defaults.eta if METHODS[name].eta is None else METHODS[name].eta)


@pytest.mark.parametrize(("name", "item"), EVERY, ids=lambda part: getattr(part, "name", part))
def test_every_parameter_is_an_option_with_its_range(name: str, item: object) -> None:
    (found,) = [one for one in METHODS[name].parameters() if one == item]
    flag = "--" + found.name.replace("_", "-")
    other = found.choices[-1] if found.choices else found.high if found.high is not None else 3
    changed = long_of(parsed("--long", name, flag, found.kind(other)))
    assert getattr(changed, found.name) == other
    for wrong in [] if found.choices else [(found.low or 0) - 1, (found.high or 0) + 1]:
        with pytest.raises(UserError, match=f"The {found.name} of {name} is {wrong:g}; it should be"):
            METHODS[name](**{found.name: found.kind(wrong)})
    without = [each for each in METHODS if each not in options()[found.name]]
    for lacking in without[:1]:
        with pytest.raises(UserError, match=rf"{flag} works with --long .*{name}"):
            long_of(parsed("--long", lacking, flag, found.kind(other)))


def test_a_wrong_name_or_choice_is_refused() -> None:
    with pytest.raises(UserError, match="no long-video method 'stretch'; choose one of off, freenoise"):
        method_named("stretch")
    with pytest.raises(UserError, match="The fuse of windows is 'round'; it should be one of pyramid"):
        METHODS["windows"](fuse="round")  # type: ignore[call-arg]


@each
def test_the_model_decides_the_window(name: str) -> None:
    """And a default that does not fit into it gives way, which one that was asked for does not."""
    method = METHODS[name]().settled(6)
    assert getattr(method, "window", 6) == 6
    windows = method.windows()
    assert windows is None or (windows.size == 6 and windows.stride <= 6)
    assert method.is_plain(6)
    assert method.is_plain(7) == (name == "off")


def long_video(**uses: str) -> Video:
    found = {Feature[name]: Use(given=given, cure="Leave it out") for name, given in uses.items()}
    return Video(frames=40, first=lambda: pytest.fail("no level is needed"), option="--long", uses=found)


@pytest.mark.parametrize(
    ("name", "feature"), [(name, feature) for name, method in METHODS.items() for feature in method.conflicts]
)
def test_what_a_method_does_not_support_is_named_with_a_cure(name: str, feature: Feature) -> None:
    method: Method = METHODS[name]().settled(16)
    with pytest.raises(
        UserError, match=f"^--this is not supported with --long {name}: .*Leave it out, or use off"
    ) as caught:
        check(method, long_video(**{feature.name: "--this"}))
    assert f" {name}" not in str(caught.value).split("or use")[1]
    short = long_video(**{feature.name: "--this"})
    check(method, Video(frames=16, first=short.first, uses=short.uses))


@pytest.mark.parametrize("page", ["docs/long-videos.md", "web/docs/VideoCrafterKSampler.md"])
def test_the_tables_of_the_documentation_are_those_of_the_records(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    if page.startswith("docs"):
        (between,) = re.findall(r"<!-- long-video methods -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
        assert between == markdown()
    else:
        assert markdown(parameters=False) in text
