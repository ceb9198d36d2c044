"""Requests: names of tasks, answers, administration."""
