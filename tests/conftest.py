"""What every test gets: coroutine tests, a seed, and a check that nothing warned unasked.

- ``async def test_...`` runs in an event loop of its own, under uvloop. Fixtures stay synchronous;
  what needs the loop is an ``async with`` inside the test.
- ``seed`` is the run's seed, printed at the start and with every failure of a test that uses it.
  ``--seed N`` repeats a run.
- A test that logs a warning or worse on one of our loggers fails, unless it says so with
  ``@pytest.mark.allow_warnings`` (any warning) or ``allow_warnings("regex", ...)`` (those).
"""

import asyncio
import functools
import inspect
import logging
import random
import re
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import hypothesis
import pytest
import uvloop

LOGGERS = ("dataplatform", "dataplatform_server", "dataplatform_clients")
SEED_BITS = 32  # short enough to read aloud, long enough that runs differ

hypothesis.settings.register_profile("project", deadline=None, print_blob=True)
hypothesis.settings.load_profile("project")


# ---------------------------------------------------------------------------------- coroutines


def _in_a_loop(function: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        ran_out: list[BaseException] = []

        async def main() -> None:
            task = asyncio.current_task()
            assert task is not None

            # pytest-timeout raises in a signal handler; uvloop hands that to the loop's exception
            # handler and would otherwise carry on.
            def on_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
                exception = context.get("exception")
                if isinstance(exception, pytest.fail.Exception):
                    ran_out.append(exception)
                    task.cancel()
                else:
                    loop.default_exception_handler(context)

            asyncio.get_running_loop().set_exception_handler(on_exception)
            await function(*args, **kwargs)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                runner.run(main())
            except BaseException as exception:
                if ran_out:
                    raise ran_out[0] from exception
                raise

    return run


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    function = pyfuncitem.obj
    property_test = getattr(function, "hypothesis", None)
    if property_test is not None and inspect.iscoroutinefunction(property_test.inner_test):
        property_test.inner_test = _in_a_loop(property_test.inner_test)
        return None
    if not inspect.iscoroutinefunction(function):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    _in_a_loop(function)(**{name: pyfuncitem.funcargs[name] for name in names})
    return True


# ---------------------------------------------------------------------------------------- seed


SEED = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="repeat a run with this seed")


def pytest_configure(config: pytest.Config) -> None:
    seed = config.getoption("--seed")
    config.stash[SEED] = random.SystemRandom().getrandbits(SEED_BITS) if seed is None else seed


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.stash[SEED]} (repeat with --seed {config.stash[SEED]})"


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    return request.config.stash[SEED]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and "seed" in getattr(item, "fixturenames", ()):
        seed = item.config.stash[SEED]
        report.sections.append(("Seed", f"repeat with: pytest '{item.nodeid}' --seed {seed}"))
    return report


# ------------------------------------------------------------------------------------ warnings


class _Warnings(logging.Handler):
    """Collects what our loggers say at WARNING and above, whether or not they propagate."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.name}: {record.getMessage()}")

    def check(self, item: pytest.Item) -> None:
        lines, self.lines = self.lines, []
        marks = list(item.iter_markers("allow_warnings"))
        if any(not mark.args for mark in marks):
            return
        patterns = [pattern for mark in marks for pattern in mark.args]
        lines = [line for line in lines if not any(re.search(p, line) for p in patterns)]
        if lines:
            listed = "\n  ".join(lines)
            pytest.fail(f"logged without pytest.mark.allow_warnings:\n  {listed}", pytrace=False)


WARNINGS = pytest.StashKey[_Warnings]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    handler = item.stash[WARNINGS] = _Warnings()
    for name in LOGGERS:
        logging.getLogger(name).addHandler(handler)
    try:
        return (yield)
    finally:
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    try:
        yield
    except BaseException:
        # The failure is reported as it is; the warnings stand in its captured log.
        item.stash[WARNINGS].lines.clear()
        raise
    item.stash[WARNINGS].check(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    yield
    item.stash[WARNINGS].check(item)
