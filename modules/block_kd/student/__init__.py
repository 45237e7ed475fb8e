"""Elastic stages that learn a teacher's features: their space, training, evaluation and files."""
