"""Errors counted, their intervals, and reports on them."""
