"""The schedules and sensors of a deployed flow."""
