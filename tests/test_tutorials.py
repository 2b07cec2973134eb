"""The tutorials do what they say: their Python blocks run, and print what the text block after each one shows.

Words and integers must agree. A number with a decimal point may differ by one in its last shown digit, but by no more
than 0.01, since another processor or another BLAS rounds differently. Runs of blanks count as one.
"""

import contextlib
import io
import re
from pathlib import Path

import pytest

from minidl.ops import primitives

FOLDER = Path(__file__).parent.parent / "tutorials"
TUTORIALS = sorted(FOLDER.glob("[0-9]*.md"))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DECIMAL = re.compile(r"-?\b\d+\.\d*(?:e[-+]?\d+)?")


def blocks(markdown):
    """(language, content, number of the first line) of every fenced block."""
    for m in FENCE.finditer(markdown):
        yield m[1], m[2], markdown.count("\n", 0, m.start(2)) + 1


def examples(markdown):
    """(code, line, expected output) of every Python block; a text block is the output of the code just before it."""
    found = []
    code_came_before = False
    for language, content, line in blocks(markdown):
        if language == "python":
            found.append([content, line, ""])
        elif language == "text":
            assert code_came_before, f"line {line}: a text block that no Python block comes before"
            found[-1][2] = content
        code_came_before = language == "python"
    return found


def last_digit(number):
    """What one more in the last shown digit of '-1.25e-03' is worth: 1e-05. NumPy leaves out zeros at the end, so the
    second decimal counts as shown."""
    mantissa, _, exponent = number.partition("e")
    return 10.0 ** (int(exponent or 0) - max(2, len(mantissa.partition(".")[2])))


def words(text):
    """The text with every decimal number as '#'; blanks do not count where a sign or a padded number may need them."""
    lines = [" ".join(DECIMAL.sub("#", line).split()) for line in text.strip().splitlines()]
    return [line.replace("[ ", "[").replace(" ]", "]") for line in lines]


def difference(got, expected):
    """How the output differs from the expected one; None if it does not."""
    if words(got) != words(expected):
        return "other words"
    for a, b in zip(DECIMAL.findall(got), DECIMAL.findall(expected), strict=True):
        if abs(float(a) - float(b)) > 1.001 * max(last_digit(a), last_digit(b)):
            return f"{a} instead of {b}"
    return None


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_tutorial(path):
    namespace = {"__name__": "tutorial"}
    declared = dict(primitives)
    try:
        for code, line, expected in examples(path.read_text(encoding="utf-8")):
            printed = io.StringIO()
            program = compile("\n" * (line - 1) + code, str(path), "exec")  # errors then show the tutorial's line
            with contextlib.redirect_stdout(printed):
                exec(program, namespace)
            got = printed.getvalue()
            wrong = difference(got, expected)
            assert wrong is None, f"{path.name}, code at line {line}: {wrong}. It printed\n{got}\nand not\n{expected}"
    finally:
        primitives.clear()  # a tutorial may declare primitives of its own
        primitives.update(declared)


def test_there_are_tutorials():
    assert len(TUTORIALS) >= 5


def test_index_names_every_tutorial():
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [p.name for p in sorted(FOLDER.glob("*.md")) if p.name != "README.md" and f"({p.name})" not in index] == []


@pytest.mark.parametrize(
    ("got", "same"),
    [
        ("loss 0.124 after 3\n", True),
        ("loss 0.126 after 3\n", True),
        ("loss 0.127 after 3\n", False),
        ("loss -0.124 after 3\n", False),
        ("loss 0.124 after 4\n", False),
        ("lost 0.124 after 3\n", False),
        ("loss  0.1241  after 3", True),
        ("loss 0.124\n", False),
        ("", False),
    ],
)
def test_difference(got, same):
    assert (difference(got, "loss 0.125 after 3\n") is None) == same


def test_difference_in_exponents():
    assert difference("1.25e-03", "1.26e-03") is None
    assert difference("1.25e-03", "1.28e-03") is not None
    assert difference("1.25e-03", "1.25e-04") is not None


def test_an_output_without_code_is_refused():
    with pytest.raises(AssertionError, match="no Python block"):
        examples("```text\n1\n```\n")
