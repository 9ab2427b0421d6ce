"""The parts of the project: a folder or a file each."""
