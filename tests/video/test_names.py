"""Names from users and from other machines stay inside their folder."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

import pytest

from vc_core.video import safe_name
from vc_core.video.names import MAX_BYTES

HOSTILE = [
    "../../x",
    "..\\..\\x",
    "/etc/passwd",
    "C:\\Windows\\system32\\x",
    "\\\\server\\share\\x",
    "//server/share/x",
    "a\0b",
    "line\nbreak\r\t\x1b[31m",
    "n" * 300,
    "漢" * 300,
    "con",
    "NUL.mp4",
    "sub/aux/x",
    "COM1 .txt",
    "LPT¹",
    'a<b>c:d"e|f?g*h',
    "ends with dot.",
    "ends with space /x",
    "....",
    "",
    "   ",
    "/",
    "sub/",
    "sub/../../x",
    "a/./b",
    "\u202egpj.x",
    "\ud800",
    "x:stream",
    "/".join("abcdefghijklmn"),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_become_harmless_ones(tmp_path, name):
    safe, message = safe_name(name)
    inside = (tmp_path / safe).resolve()
    assert inside.is_relative_to(tmp_path)
    assert inside != tmp_path
    for part in safe.split("/"):
        assert 0 < len(part.encode()) <= MAX_BYTES + 1
        assert part.isprintable()
        assert part == part.strip().rstrip(".")
        assert not PureWindowsPath(part).is_reserved()
        assert not set(part) & set('<>:"|?*\\')
    inside.parent.mkdir(parents=True, exist_ok=True)
    inside.write_text("it can be made")
    assert "was changed to" in message
    assert message.isprintable()
    assert safe_name(safe) == (safe, "")


@pytest.mark.parametrize(
    "name", ["video/VideoCrafter", "x", "a b/c-d_e.f", "ünï/漢字", "v%year%_%width%", "console", "sub\\x"]
)
def test_good_names_stay(name):
    assert safe_name(name) == (name.replace("\\", "/"), "")


def test_a_name_of_a_place_in_the_folder_does_not_climb(tmp_path):
    assert not (tmp_path / safe_name("../x")[0]).exists()
    assert Path(safe_name("a/../../b")[0]).parts == ("a", "b")
