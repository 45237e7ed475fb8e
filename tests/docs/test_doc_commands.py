"""Every command that README and docs print: its script exists and takes its options, its files and links are there."""
import re
import shlex
import subprocess
import sys

import pytest

from modules.utils.files import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md")), *sorted((REPOSITORY / "data").rglob("README.md"))]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY).with_suffix("")))
# Parses the options of a script in a process of its own and stops there: nothing is run.
PARSE = """
import os, runpy, sys
from modules.utils import cli
class Parsed(Exception): pass
def parse(self, args=None, namespace=None, real=cli.Parser.parse_args):
    real(self, args, namespace)
    raise Parsed
cli.Parser.parse_args = parse
for line in sys.stdin.read().splitlines():
    kind, name, *sys.argv = eval(line)
    sys.path[0] = os.path.dirname(os.path.abspath(name)) if not kind else os.getcwd()
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=False) if kind == "-m" else runpy.run_path(
            name, run_name="__main__")
    except Parsed:
        continue
    except SystemExit as error:
        print(f"{name} {sys.argv[1:]}: ends with {error.code}")
    else:
        print(f"{name}: parsed nothing")
"""


def commands(page) -> list[str]:
    """The command lines in the code blocks of a page, continued lines joined, comments left out, variables replaced; a
    loop's by its first value."""
    lines, variables = [], {}
    # Blocks of every language are matched, so that the closing fence of one does not pass for the opening of another.
    blocks = re.findall(r"^```([^\n]*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    for block in (text for language, text in blocks if language in {"", "bash", "sh"}):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.split("  #")[0].strip()
            if assigned := re.fullmatch(r'(\w+)=(?:"(.*)"|(\S*))', line):
                value = expand(assigned[2] or assigned[3], r"\$(\w+)", variables)
                variables[assigned[1]] = value if " " in value else shlex.quote(value)
            else:
                variables |= dict(re.findall(r"\bfor (\w+) in (\S+)", line))
                lines.append(expand(line, r'"?\$(\w+)"?', variables))
    return [part.strip() for line in lines for part in re.split(r"\s&&\s|;\s*do\s|^for .* do\s", line)
            if re.match(r"(OMP_NUM_THREADS=1 )?(python |torchrun )", part.strip())]


def expand(text: str, pattern: str, variables: dict[str, str]) -> str:
    return re.sub(pattern, lambda found: variables.get(found[1], found[0]), text)


def script_of(command: str) -> tuple[str, str, list[str]] | None:
    """("-m" or "", module or file, arguments) of a command of this project; None for another program's."""
    words = [word for word in shlex.split(command) if word != "OMP_NUM_THREADS=1"]
    start = next((i for i, word in enumerate(words) if word.endswith(".py") or word.startswith("modules.")), None)
    if start is None:
        return None
    kind = "-m" if words[start].startswith("modules.") else ""
    return kind, words[start], words[start + 1:]


@every_page
def test_options_of_all_commands_are_known(page):
    calls = [call for command in commands(page) if "$" not in command and (call := script_of(command))]
    for kind, name, _ in calls:
        path = name.replace(".", "/") if kind else name
        assert (REPOSITORY / path).exists() or (REPOSITORY / f"{path}.py").exists(), name
    lines = "\n".join(repr([kind, name, name, *arguments]) for kind, name, arguments in calls
                      if not name.startswith("benchmarks/"))  # some of them have no options and would run
    done = subprocess.run([sys.executable, "-c", PARSE], input=lines, cwd=REPOSITORY, text=True, capture_output=True,
                          timeout=300)
    assert not done.returncode, done.stderr
    assert not done.stdout, done.stdout + done.stderr


@every_page
def test_links_lead_somewhere(page):
    for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        assert not heading or heading in headings(linked), f"{target}#{heading}"


def headings(page) -> set[str]:
    """The names by which links reach the headings of a page: lower case, blanks as hyphens, no other signs than _."""
    lines = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-")
            for line in re.findall(r"^#+ (.*)$", lines, re.MULTILINE)}


def test_commands_are_found():
    assert len([command for page in PAGES for command in commands(page) if script_of(command)]) > 100


def test_faults_of_a_page_are_noticed(tmp_path):
    page = tmp_path / "page.md"
    for text, check, fault in (("[a](nowhere.md)", test_links_lead_somewhere, "nowhere.md"),
                               ("# Here\n[a](#there)", test_links_lead_somewhere, "#there"),
                               ("```\npython nowhere.py\n```", test_options_of_all_commands_are_known, "nowhere.py"),
                               ("```bash\npython eval_supernet.py \\\n  --nope\n```",
                                test_options_of_all_commands_are_known, "--nope.*ends with 2")):
        page.write_text(text)
        with pytest.raises(AssertionError, match=fault):
            check(page)
