"""The generated code: older than every library that the client takes, and at home in any package."""

import pickle
import re
import tomllib
from pathlib import Path

import pytest

from stockwarden_client import line, stock_pb2, warehouse_pb2
from tests.kits.processes import ROOT

STUBS = sorted((ROOT / "generated" / "warehouse" / "v1").glob("*_pb2*.py"))


def oldest_taken(library: str) -> tuple[int, ...]:
    """The oldest release of a library that the client can be installed with."""
    needed = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text())["project"]["dependencies"]
    [version] = [found[1] for found in (re.match(rf"{library}>=([0-9.]+)", line) for line in needed) if found]
    return _numbers(version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@pytest.mark.parametrize("path", STUBS, ids=lambda path: path.name)
def test_it_is_made_for_the_oldest_libraries_that_the_client_takes(path: Path) -> None:
    """Generated code is refused by every runtime older than its compiler; see requirements/protoc.in."""
    if path.stem.endswith("_grpc"):
        library, found = "grpcio", re.search(r"^GRPC_GENERATED_VERSION = '(.+)'$", path.read_text(), re.MULTILINE)
    else:
        library, found = "protobuf", re.search(r"^# Protobuf Python Version: (.+)$", path.read_text(), re.MULTILINE)
    assert found is not None
    assert _numbers(found[1])[:2] == oldest_taken(library)[:2]


def test_its_files_are_registered_as_they_are_called_in_protos() -> None:
    assert stock_pb2.DESCRIPTOR.name == "warehouse/v1/stock.proto"
    assert warehouse_pb2.DESCRIPTOR.name == "warehouse/v1/warehouse.proto"


def test_messages_may_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(line(1, 2, 3))) == line(1, 2, 3)
