"""The published block tables that come with the project, and tables read from an archive."""
import zipfile

import pytest

from modules.block_kd.lut.archive import ARCHIVE, find_table, read_table
from modules.block_kd.lut.tables import load_tables
from modules.search_space.config import SupernetConfig
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY

SHIPPED = REPOSITORY / "data" / "block_lut"
PUBLISHED = {"onnxw": 132, "mobilew": 210}
RESOLUTIONS = (160, 192, 224)


@pytest.mark.parametrize("superspace", PUBLISHED)
def test_the_archives_hold_the_published_tables_byte_for_byte(shared, superspace):
    files = sorted(shared("published", "block_lut", superspace).glob("*.csv"))
    assert len(files) == PUBLISHED[superspace]
    with zipfile.ZipFile(SHIPPED / superspace / ARCHIVE) as archive:
        assert sorted(archive.namelist()) == [path.name for path in files]
        for path in files:
            assert archive.read(path.name) == path.read_bytes(), path.name


def test_what_is_shipped_is_small():
    sizes = [path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(sizes) <= 8e6
    assert max(sizes) <= 5e6


def test_tables_of_an_archive_are_those_of_the_files_it_was_made_from(tmp_path):
    space = SupernetConfig.from_choice("onnxw", "151122-023231")
    with zipfile.ZipFile(SHIPPED / "onnxw" / ARCHIVE) as archive:
        archive.extractall(tmp_path / "onnxw")
    unpacked, packed = (load_tables(folder, "onnxw", RESOLUTIONS, [space]) for folder in (tmp_path, SHIPPED))
    assert packed.digest() == unpacked.digest()
    assert sum(len(rows.loss) for stage in packed.of(space) for rows in stage) == 6 * 1000


@pytest.fixture
def packed(tmp_path):
    with zipfile.ZipFile(tmp_path / ARCHIVE, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("stage1_0_0.csv", "in the archive\n" * 100)
    return tmp_path


def test_a_file_wins_over_a_member(packed):
    assert read_table(find_table(packed, "stage1_0_0.csv")).startswith("in the archive")
    assert find_table(packed, "stage1_0_1.csv") is None
    (packed / "stage1_0_0.csv").write_text("a file\n")
    assert read_table(find_table(packed, "stage1_0_0.csv")) == "a file\n"


def test_a_damaged_archive_ends_with_a_line_that_names_it(packed):
    content = bytearray((packed / ARCHIVE).read_bytes())
    content[60] ^= 255  # within the member's data
    (packed / ARCHIVE).write_bytes(content)
    with pytest.raises(UserError, match=r"tables\.zip.*stage1_0_0\.csv.* cannot be read"):
        read_table(find_table(packed, "stage1_0_0.csv"))
    (packed / ARCHIVE).write_bytes(content[:100])
    with pytest.raises(UserError, match=r"tables\.zip.* cannot be read"):
        find_table(packed, "stage1_0_0.csv")


def test_a_faulty_row_is_named_with_its_place_in_the_archive(tmp_path):
    (tmp_path / "onnxw").mkdir()
    with zipfile.ZipFile(tmp_path / "onnxw" / ARCHIVE, "w") as archive:
        archive.writestr("stage1_1_0.csv", "3#32#4_3#32#4,1x16x112x112,0.1,1,1,1\nnonsense\n")
    with pytest.raises(UserError, match=r"tables\.zip.stage1_1_0\.csv.*line 2.*nonsense"):
        load_tables(tmp_path, "onnxw", RESOLUTIONS, [SupernetConfig.from_choice("onnxw", "111111-000000")])
