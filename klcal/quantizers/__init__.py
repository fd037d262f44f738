"""What is chosen: number formats, what gets a scale, and how values are rounded."""
