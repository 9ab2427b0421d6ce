"""The automation of a flow: decorators and options that start it, or follow its runs, become schedules and sensors."""
