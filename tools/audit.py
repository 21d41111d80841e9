"""Known vulnerabilities of what is installed here, by pip-audit and the index's advisories.

Ends with 1 if there is one. Where the index serves no advisories (a mirror, no network) it says so
and ends with 0: that is no verdict.
"""

from __future__ import annotations

import json
import subprocess
import sys

TIMEOUT_S = 300


def main() -> int:
    command = [sys.executable, "-m", "pip_audit", "--local", "--skip-editable"]
    command += ["--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        packages = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError) as error:
        print(f"audit: skipped, the advisories cannot be had: {type(error).__name__}")
        return 0
    audited = [package for package in packages if "skip_reason" not in package]
    if not audited:
        print("audit: skipped, the package index here serves no advisories")
        return 0
    found = [(package, flaw) for package in audited for flaw in package["vulns"]]
    for package, flaw in found:
        fixed = ", ".join(flaw["fix_versions"]) or "no release yet"
        print(f"audit: {package['name']} {package['version']}: {flaw['id']}, mended in: {fixed}")
    print(f"audit: {len(found)} known vulnerabilities in {len(audited)} packages")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
