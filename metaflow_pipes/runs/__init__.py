"""Runs of deployed flows: launched, listed, watched and ended, on this machine or behind a webserver."""
