"""What the worker costs, and how it compares: ``python -m benchmarks``; see the README here."""
