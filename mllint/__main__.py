"""The command. It answers what needs nothing by itself and loads the rest only then."""

from __future__ import annotations

import sys

if __name__ == "__main__" and __spec__ is not None and __spec__.name == "mllint.__main__" and not sys.flags.safe_path:
    # `python -m` puts the folder it stands in first: a project's own dis.py or json.py would be taken for Python's, and run.
    del sys.path[0]


def main() -> int:
    """Run the command line of this process and leave without tidying up where nothing is lost by it."""
    arguments = sys.argv[1:]
    if arguments in (["--version"], ["-V"]):
        from mllint import __version__

        sys.stdout.write(f"mllint {__version__}\n")
        return 0
    from mllint.cli import leave, run

    return leave(run(arguments))


if __name__ == "__main__":
    sys.exit(main())
