"""Readers of JSON, csv and text take valid files, and end with one line otherwise."""
import csv
import io
import json
import os
import zipfile

import numpy as np
import pytest

from modules.search_space.reference import read_network
from modules.utils.archives.arrays import read_arrays
from modules.utils.csv_files import read_records, read_rows
from modules.utils.errors import UserError
from modules.utils.files import fault_of_file, is_file
from modules.utils.json_files import check_form, read_json
from modules.utils.text import read_text


def write(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("value", [{}, {"a": [1, 2.5, None, True, "ü"]}, {"n": 2 ** 127}, {"deep": [[[[1]]]]}])
def test_json_round_trip(tmp_path, value):
    assert read_json(write(tmp_path, json.dumps(value)), "state") == value


@pytest.mark.parametrize(("content", "fault"), [
    (b"", "not JSON"), (b"[1]", "expected an object"), (b"\xff{}", "byte 0 is 0xff"), (b'{"a": "\0"}', "NUL"),
    (b"[" * 100_000, "nested too deeply"), (b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", "nested too deeply"),
    (b'{"a": NaN}', "NaN is no finite number"), (b'{"a": -Infinity}', "-Infinity"), (b'{"a": 1e999}', "too large"),
    (b'{"a": ' + b"9" * 400 + b"}", "400 digits"), (b'{"a": ' + b"9" * 9000 + b"}", "9000 digits"),
    (b'{"a": 1', "line 1 column"),
])
def test_json_that_cannot_be_read(tmp_path, content, fault):
    with pytest.raises(UserError, match=fault.replace("[", r"\[")) as error:
        read_json(write(tmp_path, content), "state")
    assert str(tmp_path / "file") in str(error.value)


def test_json_size_is_bounded(tmp_path):
    with pytest.raises(UserError, match="larger than 10 bytes"):
        read_json(write(tmp_path, json.dumps(list(range(100)))), "state", limit=10)


def test_json_infinite_where_allowed(tmp_path):
    assert read_json(write(tmp_path, '{"a": Infinity}'), "state", finite=False) == {"a": float("inf")}


@pytest.mark.parametrize(("path", "fault"), [("", "a folder"), ("absent", "No such file"), ("file/below", "Not a dir")])
def test_files_that_are_not_there(tmp_path, path, fault):
    write(tmp_path, "{}")
    with pytest.raises(UserError, match=fault):
        read_json(tmp_path / path, "state")


def test_faults_of_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    write(tmp_path, "x")
    found = {name: fault_of_file(tmp_path / name) for name in ("file", "", "pipe", "absent", "x" * 300, "a\0b")}
    assert list(found.values()) == ["", "is a folder", "is no regular file", *["does not exist"] * 3]


FORM = {"ms": {str: float}, "shape": [int], "pair": [str, int], "kind": (str, type(None))}
GOOD = {"ms": {"a": 1}, "shape": [1, 2], "pair": ["a", 1], "kind": None, "more": object}


def test_form_holds():
    assert check_form(GOOD, FORM, "x") is GOOD


@pytest.mark.parametrize(("change", "fault"), [
    ({"ms": {"a": "1"}}, "ms.a is '1'; expected a number"), ({"ms": {"a": True}}, "ms.a is True"),
    ({"ms": {"a": float("nan")}}, "ms.a is nan"), ({"shape": [1, 2.5]}, r"shape\[1\] is 2.5; expected a whole number"),
    ({"shape": [2 ** 63]}, r"shape\[0\]"), ({"shape": {}}, "shape is {}; expected a list"),
    ({"pair": ["a"]}, "pair has 1 entries; expected 2"), ({"kind": 1}, "kind is 1; expected text or null"),
])
def test_form_does_not_hold(change, fault):
    with pytest.raises(UserError, match=f"x: {fault}"):
        check_form(GOOD | change, FORM, "x")


def test_missing_key_is_named():
    with pytest.raises(UserError, match="x: no 'pair'; it holds: 'ms, shape'"):
        check_form({"ms": {}, "shape": []}, FORM, "x")


ROWS = [["name", "a,b", 'say "x"'], ["2", "", "ü"]]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_csv_as_spreadsheets_write_it(tmp_path, delimiter, quoting, end, encoding):
    path = tmp_path / "t.csv"
    with open(path, "w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(ROWS)
        file.write(f"{end}# a remark{end}")
    assert list(read_rows(path, "table")) == [(1, ROWS[0]), (2, ROWS[1])]


def test_csv_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="line 1: unexpected end of data"):
        list(read_rows(write(tmp_path, '"a'), "table"))
    with pytest.raises(UserError, match="line 2: field larger"):
        list(read_rows(write(tmp_path, "a\n" + "b" * 200_000), "table"))


def test_records_name_file_line_and_column(tmp_path):
    path = write(tmp_path, "a,b\n1,2\n3\n")
    with pytest.raises(UserError, match="no column 'c'; it has: 'a,b'"):
        list(read_records(path, "table", ("a", "c")))
    with pytest.raises(UserError, match="line 3: 1 fields in '3'; expected 2"):
        list(read_records(path, "table", ("a",)))
    assert next(read_records(path, "table", ("a",)))[1] == {"a": "1", "b": "2"}


def test_text_without_the_byte_order_mark(tmp_path):
    assert read_text(write(tmp_path, b"\xef\xbb\xbfabc"), "list") == "abc"


def test_a_message_stays_readable():
    """However long the offending value is: its beginning and the allowed values, at the end, are there."""
    message = str(UserError("block '" + "1" * 10**6 + "'; expected kernel#width#expand"))
    assert message.startswith("block '111")
    assert message.endswith("expected kernel#width#expand")
    assert len(message) < 2500
    assert str(UserError("x" * 2400)) == "x" * 2400


@pytest.mark.parametrize("text", ["a" * 5000, "a\0b", "", "/" * 5000])
def test_a_text_that_no_file_is_called_is_no_file(text):
    assert not is_file(text)


def test_a_file_is_one(tmp_path):
    (tmp_path / "a").write_text("")
    assert is_file(tmp_path / "a")
    assert not is_file(tmp_path)


@pytest.mark.parametrize("reference", ["a" * 5000, "a\0b", "SuperConvK3BNRELU(3,8\n8,1,1)",
                                       "SuperConvK3BNRELU(3,8,1," + "1" * 5000 + ")",
                                       "SuperConvK" + "3" * 5000 + "BNRELU(3,8,1,1)"])
def test_network_references_that_are_none(reference):
    with pytest.raises(UserError):
        read_network(reference)


def test_arrays_are_read_within_their_bound(tmp_path):
    """Stated sizes count: of two arrays with their headers of 128 bytes, and of a header that states too much."""
    path, values = tmp_path / "a.npz", {"a": np.arange(1000.0), "b": np.zeros(1000)}
    np.savez_compressed(path, **values)
    read = read_arrays(path, "arrays", limit=2 * 8128)
    assert all(np.array_equal(read[name], array) for name, array in values.items())
    with pytest.raises(UserError, match=r"arrays '.*a\.npz' would take 16256 bytes; at most 16255 are read"):
        read_arrays(path, "arrays", limit=2 * 8128 - 1)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", header.getvalue())
    with pytest.raises(UserError, match="would take 8000000000000 bytes"):
        read_arrays(path, "arrays")
