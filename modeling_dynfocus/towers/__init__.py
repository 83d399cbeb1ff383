"""What looks at frames: vision towers."""
