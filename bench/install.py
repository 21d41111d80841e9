"""`make bench` first installs the peers that can be had, and says what it does.

Nothing here is needed: what cannot be installed is named, and the measurement goes on without it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

from .peers.kafka import home
from .peers.tools import find_program

DISTRIBUTION = "dataplatform"
EXTRA = 'extra == "bench"'
LIMIT_S = 600.0

PROGRAMS = {"redis-server": "redis-server", "fusermount3": "fuse3"}
"""What is looked for, and the Debian package that has it."""

KAFKA = "4.4.0"
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
PROJECT = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>bench</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies><dependency>
    <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA}</version>
  </dependency></dependencies>
</project>
"""


def main() -> None:
    python_packages()
    programs()
    kafka()


def python_packages() -> None:
    """The extra `bench`, one by one: some have no build for every machine."""
    wanted = [
        line.partition(";")[0].strip() for line in requires(DISTRIBUTION) or () if EXTRA in line
    ]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    if _succeeds([*pip, "--dry-run", "--no-index", *wanted], is_quiet=True):
        return  # all there
    for requirement in wanted:
        say(f"pip install '{requirement}'")
        if not _succeeds([*pip, requirement]):
            say(f"going on without {requirement}")


def programs() -> None:
    """Debian packages, where there is apt-get and this is root."""
    missing = [package for name, package in PROGRAMS.items() if find_program(name) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        say(f"going on without {', '.join(missing)}: install them as root (apt-get install …)")
        return
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    say("apt-get update")
    _succeeds(["apt-get", "update", "-qq"])
    for package in missing:
        say(f"apt-get install {package}")
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
        if not _succeeds(command, is_quiet=True):
            say(f"going on without {package}")


def kafka() -> None:
    """Kafka and the jars it needs, through Maven, into the cache directory."""
    libraries = home() / "libs"
    if list(libraries.glob("kafka_2.13-*.jar")):
        return
    maven = find_program("mvn")
    if maven is None or find_program("java") is None:
        say("going on without Kafka: it takes Java 17 and Maven to install it here")
        return
    say(f"Kafka {KAFKA} through Maven into {libraries}")
    project = home() / "pom.xml"
    project.parent.mkdir(parents=True, exist_ok=True)
    project.write_text(PROJECT)
    coming = Path(f"{libraries}.coming")  # so that a part of it is never taken for the whole
    shutil.rmtree(coming, ignore_errors=True)
    options = ["-DincludeScope=runtime", f"-DoutputDirectory={coming}"]
    if _succeeds([maven, "-q", "-B", "-f", str(project), COPY, *options], is_quiet=True):
        coming.rename(libraries)
    else:
        say("going on without Kafka")


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _succeeds(command: list[str], *, is_quiet: bool = False) -> bool:
    output = subprocess.DEVNULL if is_quiet else None
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=LIMIT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        say(str(error))
        return False
    return done.returncode == 0


if __name__ == "__main__":
    main()
