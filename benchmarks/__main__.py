"""`python -m benchmarks`: see `runner.py`."""

from .runner import main

if __name__ == "__main__":  # processes that a benchmark spawns import this module as well
    main()
