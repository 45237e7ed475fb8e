"""The one training loop: epochs, steps, means, the guard against divergence, timed saves, reports.

Supernets, teachers and block students train through it. A `Task` gives the batches. Each trainee makes its own step of
every batch, and has a file of its own that its training continues from.
"""
