"""The Pipes client that launches the processes of Metaflow tasks."""
