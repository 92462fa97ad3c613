"""The load generator as seen from the benchmark: a process that is told what to do, line by line."""

import select
import subprocess
import sys
from types import TracebackType
from typing import Self

import msgspec

from benchmarks.rounds import Answer, Command, GeneratorFailed, HoldsPrepared, PrepareHolds, Round, RoundResult

ANSWER_PATIENCE_SECONDS = 120


class BenchmarkFailed(Exception):
    """The run can't go on; the message says what to look at."""


class LoadGenerator:
    """The process; use it with `with`."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(Answer)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def run(self, command: Round) -> RoundResult:
        """Make calls. Raises: BenchmarkFailed."""
        answer = self._tell(command)
        assert isinstance(answer, RoundResult)
        return answer

    def prepare(self, command: PrepareHolds) -> int:
        """Take holds; returns how many are there now. Raises: BenchmarkFailed."""
        answer = self._tell(command)
        assert isinstance(answer, HoldsPrepared)
        return answer.holds

    def _tell(self, command: Command) -> Answer:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_PATIENCE_SECONDS)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            raise BenchmarkFailed(f"the load generator did not answer to {command}; its own words are above")
        answer: Answer = self._decoder.decode(line)
        if isinstance(answer, GeneratorFailed):
            raise BenchmarkFailed(f"{command}: {answer.message}")
        return answer
