"""What a user takes home, step by step; `benchmarks/take_home.py` is the command."""
