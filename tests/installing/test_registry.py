"""What ComfyUI's registry, its manager and GitHub read: project file, published files, pictures, workflows."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version
from PIL import Image

from run import PYTHONS, ROOT

ACCELERATORS = {
    "GPU :: NVIDIA CUDA",
    "GPU :: AMD ROCm",
    "GPU :: Intel Arc",
    "NPU :: Huawei Ascend",
    "GPU :: Apple Metal",
}
"""The classifiers under `Environment` that the registry knows; one that it does not know makes it drop all of them."""
ENTRY = re.compile(r"^## \[(.+?)\] - (\d{4}-\d\d-\d\d)$", re.MULTILINE)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def project(field: str) -> str:
    """The text of a field in pyproject.toml, by a name that occurs once."""
    (value,) = re.findall(rf'^"?{re.escape(field)}"? = "(.*)"$', text_of("pyproject.toml"), re.MULTILINE)
    return str(value)


def pages() -> list[Path]:
    """The files in which a reader, a tool or a node names the repository."""
    files = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "pyproject.toml")]
    return [*files, *(ROOT / "docs").rglob("*.md"), *(ROOT / "web").rglob("*.md"), *(ROOT / ".github").rglob("*.yml")]


def published() -> set[str]:
    """The files that a user gets: those that git has, without what .comfyignore names."""
    words = ["git", "-c", f"safe.directory={ROOT}", "ls-files"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this copy of the repository has no git")
    patterns = [line for line in text_of(".comfyignore").splitlines() if not line.startswith("#")]
    assert not any(set(pattern) & set("*?[!") for pattern in patterns), "this test knows plain names and folders only"
    folders = tuple(pattern for pattern in patterns if pattern.endswith("/"))
    return {name for name in listed.stdout.splitlines() if name not in patterns and not name.startswith(folders)}


# --- project file ----------------------------------------------------------------------------------------------------


def test_the_version_is_one_fact():
    version = project("version")
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    entries = ENTRY.findall(text_of("CHANGELOG.md"))
    assert entries[0][0] == version, "the first entry of CHANGELOG.md is of another version"
    versions, dates = [Version(entry) for entry, _ in entries], [date for _, date in entries]
    assert versions == sorted(set(versions), reverse=True)
    assert dates == sorted(dates, reverse=True)


def test_every_entry_of_the_changelog_has_its_link():
    text = text_of("CHANGELOG.md")
    for version, _ in ENTRY.findall(text):
        assert re.search(rf"^\[{re.escape(version)}\]: {re.escape(project('Repository'))}/\S+$", text, re.MULTILINE)


def test_the_registry_can_read_the_project_file():
    name = project("name")
    assert re.fullmatch(r"[A-Za-z](?:[A-Za-z0-9]|[-_.](?![-_.])){0,98}", name)
    assert "comfyui" not in name.lower()
    for bound in project("requires-comfyui").split(","):
        assert re.fullmatch(r"(?:==|>=|<=|!=|~=|>|<)\d+\.\d+\.\d+", bound.strip())
    classifiers = re.findall(r'^    "(.+ :: .+)",$', text_of("pyproject.toml"), re.MULTILINE)
    assert "Operating System :: OS Independent" in classifiers
    environments = {line.removeprefix("Environment :: ") for line in classifiers if line.startswith("Environment :: ")}
    assert {"GPU :: NVIDIA CUDA"} <= environments <= ACCELERATORS


def test_one_address_of_the_repository():
    repository = project("Repository")
    owner, _, name = repository.removeprefix("https://github.com/").partition("/")
    assert owner == project("PublisherId")
    assert project("Bug Tracker") == f"{repository}/issues"
    found = 0
    for page in pages():
        for said in re.findall(
            r"(?:github|githubusercontent)\.com/([\w.-]+/[\w.-]+)", page.read_text(encoding="utf-8")
        ):
            if name.lower() in said.lower():
                assert said.removesuffix(".git") == f"{owner}/{name}", page.name
                found += 1
    assert found > 5
    assert f"git clone {repository}\n" in text_of("README.md")


@pytest.mark.parametrize(("field", "width", "height"), [("Icon", 400, 400), ("Banner", 1260, 540)])
def test_pictures_are_where_the_registry_looks_for_them(field: str, width: int, height: int):
    start = project("Repository").replace("github.com", "raw.githubusercontent.com") + "/main/"
    address = project(field)
    assert address.startswith(start)
    file = ROOT / address.removeprefix(start)
    with Image.open(file) as picture:
        assert picture.format == "PNG"
        assert picture.size == (width, height)
        assert len(picture.convert("RGB").getcolors(width * height) or ()) > 100


# --- published files -------------------------------------------------------------------------------------------------


def test_a_user_gets_what_runs_and_nothing_else():
    tops = {name.partition("/")[0] for name in published()}
    needed = {"__init__.py", "nodes", "vc_core", "models", "workflows", "subgraphs", "locales", "web", "docs", "run.py"}
    needed |= {
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "SECURITY.md",
        "SHA256SUMS",
        "pyproject.toml",
        "requirements.txt",
    }
    assert tops == needed


def test_links_of_the_readme_lead_to_published_files():
    files = published()
    for link in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text_of("README.md")):
        assert any(name == link or name.startswith(f"{link.rstrip('/')}/") for name in files), link


# --- workflows of GitHub ---------------------------------------------------------------------------------------------


def workflow(name: str) -> Mapping[Any, Any]:
    """A parsed workflow; YAML reads its key `on` as a truth value."""
    parsed = yaml.safe_load(text_of(f".github/workflows/{name}.yml"))
    return {("on" if key is True else key): value for key, value in parsed.items()}


def test_publishing_follows_a_change_of_the_project_file():
    publish = workflow("publish")
    assert publish["on"]["push"]["paths"] == ["pyproject.toml"]
    (job,) = publish["jobs"].values()
    assert project("PublisherId") in job["if"]
    assert any(step.get("uses", "").startswith("Comfy-Org/publish-node-action@") for step in job["steps"])


def test_public_tests_run_on_every_system_and_supported_python():
    jobs = workflow("test")["jobs"]
    matrix = jobs["test"]["strategy"]["matrix"]
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "windows", "macos"}
    (major, first), (_, last) = PYTHONS
    assert matrix["python"] == [f"{major}.{minor}" for minor in range(first, last + 1)]
    assert jobs["test"]["steps"][-1]["run"] == "python run.py test"
    oldest = project("requires-comfyui").removeprefix(">=")
    assert f"v{oldest}" in jobs["comfyui"]["strategy"]["matrix"]["comfyui"]


def test_the_folders_that_public_tests_name_are_there():
    command = workflow("test")["jobs"]["comfyui"]["steps"][-1]["run"]
    folders = [word for word in command.split() if word.startswith("tests/")]
    assert folders
    assert all((ROOT / folder).is_dir() for folder in folders), os.fspath(ROOT)
