"""Plain facts every other package speaks in; standard library only, imports nothing of mllint."""
