"""Model cards: the accuracy, agreement and latency of each exported file, and a report of many."""
