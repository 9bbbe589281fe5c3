"""The parts of `benchmarks/frontier.py`: cases, methods, trainings, measurements, tables."""
