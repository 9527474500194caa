"""The emitter's side: where tasks come from, how they are published and confirmed, and what the person is shown."""
