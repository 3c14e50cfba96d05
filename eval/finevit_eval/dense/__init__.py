"""What an encoder knows of each patch of a picture: as maps to look at, and as files."""
