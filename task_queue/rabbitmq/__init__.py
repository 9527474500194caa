"""The connection that both sides share: pika driven, lost connections made anew, both queues, errors in words."""
