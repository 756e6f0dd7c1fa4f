"""What the package costs and how good its results are, measured: `python -m benchmarks` lists the benchmarks."""
