"""What README.md, CONTRIBUTING.md and the tutorials name is there; README's Python runs and its commands exist."""

import contextlib
import io
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from minidl import cli

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "tutorials").glob("*.md")), ROOT / "benchmarks" / "RESULTS.md"]
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]

LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"`((?:minidl|minidl_kernels|tests|benchmarks|tutorials)/[\w./]*)`")
COMMAND = re.compile(r"`(minidl \w[^`]*)`")

#: CONTRIBUTING.md makes these up, to say which files a contribution would add
MADE_UP = {
    "minidl/optim/adamax.py",
    "minidl/recipes/softmax_digits.py",
    "minidl_kernels/numba/kernels/reduction.py",
    "tests/minidl_kernels/numba/kernels/test_reduction.py",
}


def name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_somewhere(path):
    links = [link for link in LINK.findall(path.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_named_files_are_there(path):
    named = set(PATH.findall(path.read_text(encoding="utf-8")))
    assert {p for p in named if not (ROOT / p).exists()} - MADE_UP == set()


def test_what_is_made_up_is_named_and_is_not_there():
    named = set(PATH.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert named >= MADE_UP and not any((ROOT / p).exists() for p in MADE_UP)


@pytest.mark.parametrize("path", GUIDES, ids=name)
def test_every_package_is_on_the_map(path):
    packages = {f"minidl/{p.parent.name}/" for p in (ROOT / "minidl").glob("*/__init__.py")}
    assert packages - set(PATH.findall(path.read_text(encoding="utf-8"))) == set()


def commands():
    """(document, command) for every ``minidl …`` in a shell block or between backticks."""
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        in_blocks = [line for language, block in FENCE.findall(text) if language == "sh" for line in block.splitlines()]
        for line in in_blocks:
            yield from ((name(path), c.strip()) for c in line.split("#")[0].split("&&") if c.strip()[:7] == "minidl ")
        yield from ((name(path), " ".join(c.split())) for c in COMMAND.findall(FENCE.sub("", text)))


@pytest.mark.parametrize(("document", "command"), sorted(set(commands())))
def test_commands_are_understood(document, command, capsys):
    try:
        cli.parser().parse_args(shlex.split(command)[1:])
    except SystemExit:
        error = capsys.readouterr().err
        # a mention of the command alone, without what it needs
        assert "arguments are required" in error, f"{document}: {command}\n{error}"


@pytest.mark.filterwarnings("error")
def test_readmes_python_runs():
    namespace = {"__name__": "readme"}
    printed = io.StringIO()
    blocks = [block for language, block in FENCE.findall(GUIDES[0].read_text(encoding="utf-8")) if language == "python"]
    assert len(blocks) >= 2
    for block in blocks:
        with contextlib.redirect_stdout(printed):
            exec(compile(block, "README.md", "exec"), namespace)
    losses = [float(line.split()[1]) for line in printed.getvalue().splitlines()]
    assert len(losses) == 5 and losses[-1] < losses[0]
    assert namespace["loss"].item() < losses[0] and len(namespace["step"].programs) == 1


def test_addresses_agree():
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    assert all(url.startswith(urls["Repository"]) for url in urls.values())
    assert f"git clone {urls['Repository']} " in GUIDES[1].read_text(encoding="utf-8")
