"""The README tells the truth: its lines are run, in order, and print what it says they print."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from development.free_ports import free_port
from development.server_programs import Flavour
from tests.kits.development_run import Run, development
from tests.kits.processes import ROOT, clean_environment
from tests.kits.readme import without_what_changes

pytestmark = [pytest.mark.e2e, pytest.mark.sql]

_CODES = {grpc.StatusCode.FAILED_PRECONDITION: "FailedPrecondition"}


@pytest.fixture
def run(tmp_path: Path, database_flavour: Flavour) -> Iterator[Run]:
    started = Run(tmp_path / "data", database_flavour, free_port(), free_port())
    started.wait_for("^ready ")
    yield started
    started.end()


def examples() -> list[tuple[str, str]]:
    """The commands of the console blocks in "Five minutes", each with what it prints."""
    text = (ROOT / "README.md").read_text().split("\n## Five minutes", 1)[1].split("\n## From your own service", 1)[0]
    found = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def grpcurl(arguments: list[str], target: str) -> str:
    """What grpcurl does: asks the server for the description of a method, calls it, prints JSON."""
    with grpc.insecure_channel(target) as channel:
        descriptions = ProtoReflectionDescriptorDatabase(channel)
        if arguments[-1] == "list":
            return "\n".join(sorted(descriptions.get_services()))
        service_name, method_name = arguments[-1].split("/")
        method = DescriptorPool(descriptions).FindServiceByName(service_name).methods_by_name[method_name]
        request = json_format.Parse(arguments[arguments.index("-d") + 1], GetMessageClass(method.input_type)())
        call: grpc.UnaryUnaryMultiCallable[Message, Message] = channel.unary_unary(
            f"/{service_name}/{method_name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        try:
            return json_format.MessageToJson(call(request, timeout=10))
        except grpc.RpcError as error:
            return f"ERROR:\n  Code: {_CODES[error.code()]}\n  Message: {error.details()}"


def execute(command: str, run: Run) -> str:
    """Run a line of the README against `run`; return what it prints."""
    if command.startswith("grpcurl "):
        arguments = shlex.split(command)
        quiet = arguments[-2:] == [">", "/dev/null"]
        printed = grpcurl(arguments[:-2] if quiet else arguments, run.target)
        return "" if quiet else printed
    if command == "make audit":
        line = development("audit", run.data_dir)
    else:
        line = ["bash", "-c", command.replace("localhost:3000", run.base_url.removeprefix("http://"))]
    done = subprocess.run(line, cwd=ROOT, env=clean_environment({}), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_line_prints_what_the_readme_says(run: Run) -> None:
    lines = examples()
    assert len(lines) > 12
    for command, expected in lines:
        printed = execute(command, run)
        assert without_what_changes(printed) == without_what_changes(expected), command
