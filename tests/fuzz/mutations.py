"""Damage: edits of valid inputs, drawn by hypothesis, so that a failure shrinks to the few bytes that matter."""
import io
import json
import random
import re
import zipfile

from hypothesis import strategies as st

# Text that other programs, spreadsheets and enemies put in place of a number, a name or a brace.
NASTY = [b"", b"NaN", b"nan", b"-1", b"0", b"1e999", b"-Infinity", b"9" * 400, b"1" * 5000, b"null", b"true",
         b'"x"', b"[]", b"{}", b"[" * 2000, b"{\"a\":" * 200, b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xf0\x9f",
         b"\\ud800", b",", b"\"", b"\n", b"\r\n", b"\t", b"#", b"_", b"-", b"0.5", b"3.7", b"99999999999999999999",
         b"None", b"../x", b"x" * 300, b"&a [*a]", b"!!python/object:os.system", b"*"]
_TOKEN = re.compile(rb"-?\d+(?:\.\d+)?|\"[^\"]{0,60}\"|[A-Za-z]+|[{}\[\],:#_x]")
KINDS = ("flip", "cut", "drop", "repeat", "insert", "over", "token", "swap")

edits = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF),
                           st.one_of(st.sampled_from(NASTY), st.binary(max_size=8))), min_size=1, max_size=4)


def damaged(content: bytes, changes) -> bytes:
    """`content` after `changes`; places are shares of its length in 1/65536."""
    for kind, a, b, payload in changes:
        content = _change(content, kind, a * len(content) >> 16, b, payload)
    return content


def _change(content: bytes, kind: str, at: int, b: int, payload: bytes) -> bytes:
    end = min(len(content), at + 1 + b % 64)
    if kind == "flip" and content:
        return content[:at] + bytes([content[at] ^ (1 << b % 8)]) + content[at + 1:]
    if kind == "cut":
        return content[:at]
    if kind == "drop":
        return content[:at] + content[end:]
    if kind == "repeat":
        return content[:end] + content[at:end] * (1 + b % 5) + content[end:]
    if kind == "over":
        return content[:at] + payload + content[at + len(payload):]
    if kind in ("token", "swap"):
        tokens = list(_TOKEN.finditer(content))
        if tokens:
            first, second = tokens[at * len(tokens) // (len(content) + 1)], tokens[b % len(tokens)]
            return content[:first.start()] + (payload if kind == "token" else second[0]) + content[first.end():]
    return content[:at] + payload + content[at:]


VALUES = [None, True, -1, 0, 2**70, 0.5, float("nan"), float("inf"), "", "x", [], {}, [[]], [1, "a"], {"a": 1},
          "9" * 50]
tree_edits = st.tuples(st.integers(0, 2**32), st.sampled_from(VALUES), st.booleans())


def changed_tree(tree, change):
    """A copy of nested dicts and lists with one value, drawn by the first number of `change`, replaced or removed."""
    seed, value, remove = change
    copy = json.loads(json.dumps(tree))
    places = list(_places(copy))
    if not places:
        return value
    holder, key = places[seed % len(places)]
    if remove:
        del holder[key]
    else:
        holder[key] = value
    return copy


def _places(tree):
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def resealed(content: bytes, member: str, changes) -> bytes:
    """The zip archive `content` with the named member damaged, and its checksums right again."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, damaged(data, changes) if name.endswith(member) else data)
    return out.getvalue()


def noise(seed: int, length: int) -> bytes:
    """Random bytes."""
    return random.Random(seed).randbytes(length)
