"""The text of statements over JSON documents."""

from service_kit.database import json_table
from service_kit.database.json_table import HEX, INSTANT, JSON, NUMBER, Columns

COLUMNS: Columns = (("id", NUMBER), ("at", INSTANT), ("print", HEX), ("why", JSON))
UNPACKED = (
    "JSON_TABLE(%(rows)s, '$[*]' COLUMNS (id BIGINT PATH '$[0]', at BIGINT PATH '$[1]', "
    "print VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin PATH '$[2]', "
    "why LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$[3]')) AS j"
)


def test_a_document_is_unpacked_by_position() -> None:
    assert json_table.unpack("rows", COLUMNS) == UNPACKED
    lines = ", NESTED PATH '$[1][*]' COLUMNS (line BIGINT PATH '$[0]')"
    assert json_table.unpack("rows", COLUMNS[:1], lines, "u") == (
        f"JSON_TABLE(%(rows)s, '$[*]' COLUMNS (id BIGINT PATH '$[0]'{lines})) AS u"
    )


def test_the_rows_of_a_document_that_locks_are_sorted_by_number() -> None:
    assert json_table.sorted_document({(10, 1), (2, 3), (2, 1)}) == "[[2,1],[2,3],[10,1]]"


def test_what_is_to_be_locked_is_joined_from_a_derived_table() -> None:
    assert json_table.lockable("ids", (("a", NUMBER), ("b", NUMBER))) == (
        "(SELECT a, b FROM JSON_TABLE(%(ids)s, '$[*]' COLUMNS (a BIGINT PATH '$[0]', b BIGINT PATH '$[1]')) AS u) AS j"
    )
    assert json_table.join("stock") == "STRAIGHT_JOIN stock AS t FORCE INDEX (PRIMARY)"
    assert json_table.join("stock", "by_name", "s") == "STRAIGHT_JOIN stock AS s FORCE INDEX (by_name)"


def test_each_kind_is_stored_and_shown_in_its_own_way() -> None:
    assert json_table.insert("things", "rows", COLUMNS) == (
        "INSERT INTO things (id, at, print, why) "
        "SELECT j.id, TIMESTAMPADD(MICROSECOND, j.at, TIMESTAMP'1970-01-01 00:00:00'), UNHEX(j.print), j.why "
        f"FROM {UNPACKED}"
    )
    assert json_table.row(COLUMNS, "x", ", 1") == (
        "JSON_ARRAY(x.id, TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', x.at), "
        "LOWER(HEX(x.print)), CAST(x.why AS CHAR), 1)"
    )


def test_texts_are_unpacked_wider_than_their_columns() -> None:
    assert json_table.text(64) == "VARCHAR(65) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    assert json_table.ascii_text(16) == "VARCHAR(17) CHARACTER SET ascii COLLATE ascii_bin"
