"""What starts a flow by itself, and what follows its runs: decorators and options become schedules and sensors."""
