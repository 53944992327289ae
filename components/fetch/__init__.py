"""Bring the source's objects to the workspace, whichever scheme their URI has."""
