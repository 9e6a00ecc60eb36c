"""Found by every interpreter below a runtime check, since this folder stands first on PYTHONPATH; without the variable it does nothing.

Python imports one `sitecustomize` only, so the one this file hides is looked up and run as well.
"""

import os
import sys


def _attach() -> None:
    try:
        from mllint_probe import attach

        attach.install(os.environ["MLLINT_RUN_DIR"])
    except Exception as error:  # a probe that cannot start must not stop the program it was to watch
        sys.stderr.write(f"mllint: the probes could not be attached: {error!r}\n")


def _chain() -> None:
    """Run the sitecustomize that would have been found without this folder."""
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    here = os.path.dirname(os.path.abspath(__file__))
    rest = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    spec = PathFinder.find_spec("sitecustomize", rest)
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


if os.environ.get("MLLINT_RUN_DIR"):
    _attach()
_chain()
