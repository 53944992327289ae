"""Synthetic CT: the chest phantom, lower doses, and inserted nodules."""
