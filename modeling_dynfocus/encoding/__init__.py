"""The trained parts: event scores, question encoder, CCE."""
