"""The two parts of the build that setup.cfg cannot express.

Packages are found below each folder named in setup.cfg's ``package_dir``, so a new subpackage
needs no entry anywhere. Protobuf code is generated while a wheel is built, so that it is never
committed and users need no protoc. An editable install leaves that to ``make proto``.
"""

import configparser
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def packages() -> list[str]:
    config = configparser.RawConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    found = []
    for line in config["options"]["package_dir"].strip().splitlines():
        name, folder = (part.strip() for part in line.split("="))
        if (ROOT / folder / "__init__.py").exists():
            found += [name, *(f"{name}.{sub}" for sub in find_packages(str(ROOT / folder)))]
    return found


class BuildWithProto(build_py):
    def run(self) -> None:
        super().run()
        protos = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("dataplatform/api/*.proto"))
        if protos and not self.editable_mode:
            out = Path(self.build_lib).resolve()
            command = [sys.executable, "-m", "grpc_tools.protoc", "-I."]
            command += [f"--python_out={out}", f"--pyi_out={out}", *protos]
            subprocess.run(command, check=True, cwd=ROOT)


setup(packages=packages(), cmdclass={"build_py": BuildWithProto})
