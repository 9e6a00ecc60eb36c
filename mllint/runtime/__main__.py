"""`python -I -m mllint.runtime SCRIPT ARGUMENTS`: run a script under the probes where Python is told to ignore its environment.

`-I`, `-E` and `-S` keep Python from finding the probes by itself. Everything else about the script stays as Python would have it.
"""

from __future__ import annotations

import os
import runpy
import sys


def main() -> None:
    """Attach the probes, then become the script."""
    if len(sys.argv) < 2:
        sys.exit("usage: mllint runtime-check -- python -I -m mllint.runtime SCRIPT ...")
    if "MLLINT_RUN_DIR" not in os.environ:
        sys.exit("python -m mllint.runtime works below `mllint runtime-check` alone")
    hook = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hook")
    sys.path.insert(0, hook)
    runpy.run_path(os.path.join(hook, "sitecustomize.py"))
    script = sys.argv[1]
    del sys.argv[0]
    if not sys.flags.safe_path:
        sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
