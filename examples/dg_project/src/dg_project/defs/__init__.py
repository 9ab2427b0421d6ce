"""What the project consists of: a folder or a file each."""
