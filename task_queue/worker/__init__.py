"""The worker's side: how tasks are taken and settled, the work itself, and what the person is shown."""
